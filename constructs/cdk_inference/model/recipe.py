"""What a model is made of, as pure data: the build process reads it, the synth process only hashes it."""

from __future__ import annotations

import dataclasses
import re
import runpy
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES = (
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
METRICS = ("top1_agreement", "cosine")
CALIBRATION_METHODS = ("percentile", "minmax")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(r"[^:\\]+\.py:[A-Za-z_][A-Za-z0-9_]*")


def _check(condition: object, field_name: str, value: object, expected: str) -> None:
    if not condition:
        raise ModelBuildError(f"recipe field '{field_name}' is {value!r}, must be {expected}")


def _check_function(field_name: str, value: object) -> None:
    _check(
        # What lies outside of the recipe's folder would not be noticed when it changes.
        isinstance(value, str)
        and _FUNCTION.fullmatch(value)
        and not Path(value).is_absolute()
        and ".." not in Path(value).parts,
        field_name,
        value,
        "'file.py:function', a file inside of the recipe's folder",
    )


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of a model input or output.

    Parameters
    ----------
    name
        Name of the tensor in the ONNX graph, a Python identifier.
    dtype
        NumPy name of the element type, such as ``"uint8"``.
    shape
        Sizes by axis; a string is a symbolic size, such as ``("batch", 224, 224, 3)``. Symbolic sizes
        with the same name are equal.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]

    def __post_init__(self) -> None:
        _check(isinstance(self.name, str) and _TENSOR_NAME.fullmatch(self.name), "name", self.name, "an identifier")
        _check(self.dtype in DTYPES, f"{self.name}.dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        shape = self.shape
        sizes = isinstance(shape, list | tuple) and all(
            (isinstance(s, str) and _TENSOR_NAME.fullmatch(s))
            or (isinstance(s, int) and not isinstance(s, bool) and s > 0)
            for s in shape
        )
        _check(sizes and len(shape) > 0, f"{self.name}.shape", shape, "positive sizes or symbolic names, batch first")
        object.__setattr__(self, "shape", tuple(shape))


@dataclass(frozen=True)
class Float32:
    """Ship the exported graph as it is."""

    kind: Literal["float32"] = field(default="float32", init=False)


@dataclass(frozen=True)
class StaticInt8:
    """Static 8-bit quantization: uint8 activations, int8 weights per channel (QDQ), model outputs stay float.

    Parameters
    ----------
    calibration
        ``"file.py:function"``; the function takes no arguments and yields batches, each a dict from input
        name to array. A few dozen varied batches that look like production data are enough.
    method
        ``"percentile"`` clips rare extremes, which suits MobileNet-like networks; ``"minmax"`` clips nothing.
    percentile
        Share in percent of all activation values that stays inside the range, in (50, 100].
    """

    calibration: str
    method: str = "percentile"
    percentile: float = 99.99
    kind: Literal["static_int8"] = field(default="static_int8", init=False)

    def __post_init__(self) -> None:
        _check_function("calibration", self.calibration)
        _check(self.method in CALIBRATION_METHODS, "method", self.method, f"one of {', '.join(CALIBRATION_METHODS)}")
        number = isinstance(self.percentile, int | float) and not isinstance(self.percentile, bool)
        _check(number and 50 < self.percentile <= 100, "percentile", self.percentile, "above 50, at most 100")  # noqa: PLR2004


@dataclass(frozen=True)
class Evaluation:
    """The gate: how far the deployed model may fall behind the float one on held-out data.

    Parameters
    ----------
    data
        ``"file.py:function"`` yielding batches like a calibration does, from data that calibration has not seen.
    metric
        Both metrics need no labels and are 1.0 for the float model. ``"top1_agreement"``: share of samples
        whose highest output is the same as the float model's. ``"cosine"``: mean cosine similarity of the
        outputs with the float model's.
    max_drop
        The build fails if the metric falls by more than this, in [0, 1].
    """

    data: str
    metric: str = "top1_agreement"
    max_drop: float = 0.05

    def __post_init__(self) -> None:
        _check_function("data", self.data)
        _check(self.metric in METRICS, "metric", self.metric, f"one of {', '.join(METRICS)}")
        number = isinstance(self.max_drop, int | float) and not isinstance(self.max_drop, bool)
        _check(number and 0 <= self.max_drop <= 1, "max_drop", self.max_drop, "from 0 to 1")


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from and on what terms; copied into the manifest.

    Parameters
    ----------
    license
        SPDX identifier of the weights' licence.
    origin
        URL or sentence that lets a reader find the original.
    """

    license: str
    origin: str

    def __post_init__(self) -> None:
        _check(isinstance(self.license, str) and self.license, "license", self.license, "an SPDX identifier")
        _check(isinstance(self.origin, str) and self.origin, "origin", self.origin, "a URL or a sentence")


@dataclass(frozen=True)
class ModelRecipe:
    """Everything that determines a built model.

    Parameters
    ----------
    name
        Letters, digits, dots, dashes and underscores.
    factory
        ``"file.py:function"``; the function takes no arguments and returns the `torch.nn.Module`, whose
        positional inputs and outputs are in the order of `inputs` and `outputs`.
    inputs, outputs
        The model's tensors, batch first.
    evaluation
        Held-out data and the gate.
    provenance
        Licence and origin of the weights.
    precision
        `StaticInt8` or `Float32`.
    packages
        Distributions that the factory stands on. Their versions decide, with the recipe and all files in
        its folder, whether the model is built again; of editable ones the files in their source folder do too.
    """

    name: str
    factory: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    evaluation: Evaluation
    provenance: Provenance
    precision: StaticInt8 | Float32 = field(default_factory=Float32)
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(
            isinstance(self.name, str) and _NAME.fullmatch(self.name),
            "name",
            self.name,
            "letters, digits, dots, dashes and underscores",
        )
        _check_function("factory", self.factory)
        for kind in ("inputs", "outputs"):
            specs = getattr(self, kind)
            tensors = isinstance(specs, list | tuple) and all(isinstance(s, TensorSpec) for s in specs)
            _check(tensors and specs, kind, specs, "one or more TensorSpec")
            object.__setattr__(self, kind, tuple(specs))
        names = [s.name for s in (*self.inputs, *self.outputs)]
        repeated = sorted({n for n in names if names.count(n) > 1})
        _check(not repeated, "inputs/outputs", repeated, "tensors with different names")
        for name, kinds in (
            ("evaluation", Evaluation),
            ("provenance", Provenance),
            ("precision", (StaticInt8, Float32)),
        ):
            expected = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
            _check(isinstance(getattr(self, name), kinds), name, getattr(self, name), f"of type {expected}")
        packages = isinstance(self.packages, list | tuple) and all(isinstance(p, str) and p for p in self.packages)
        _check(packages, "packages", self.packages, "names of distributions, a tuple of strings")
        object.__setattr__(self, "packages", tuple(self.packages))

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as JSON-compatible data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ModelRecipe:
        """Read what `to_data` wrote."""
        precision = {k: v for k, v in data["precision"].items() if k != "kind"}
        return cls(
            name=data["name"],
            factory=data["factory"],
            inputs=tuple(TensorSpec(**s) for s in data["inputs"]),
            outputs=tuple(TensorSpec(**s) for s in data["outputs"]),
            evaluation=Evaluation(**data["evaluation"]),
            provenance=Provenance(**data["provenance"]),
            precision=StaticInt8(**precision) if data["precision"]["kind"] == "static_int8" else Float32(),
            packages=tuple(data["packages"]),
        )


def load_recipe(path: str | Path) -> tuple[ModelRecipe, Path]:
    """Run a recipe file and return its ``RECIPE`` with the folder that its paths are relative to.

    Raises
    ------
    ModelBuildError
        If the file is missing, raises, or defines no `ModelRecipe` named ``RECIPE``.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise ModelBuildError(f"recipe file {file} does not exist; pass the path of a file that defines RECIPE")
    try:
        recipe = runpy.run_path(str(file)).get("RECIPE")
    except ModelBuildError as error:
        raise ModelBuildError(f"recipe file {file}: {error}") from error
    except Exception as error:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = getattr(error, "lineno", None) or (frames[-1] if frames else "?")
        raise ModelBuildError(f"recipe file {file} raised {type(error).__name__} on line {line}: {error}") from error
    if not isinstance(recipe, ModelRecipe):
        found = "no RECIPE" if recipe is None else f"a RECIPE of type {type(recipe).__name__}"
        raise ModelBuildError(f"recipe file {file} defines {found}; write RECIPE = ModelRecipe(...)")
    return recipe, file.parent
