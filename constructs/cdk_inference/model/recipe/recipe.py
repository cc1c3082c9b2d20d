"""Describes a model as pure data: the build process reads it, the synth process only hashes it."""

from __future__ import annotations

import re
import runpy
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.checks import check, check_function, check_names
from cdk_inference.model.recipe.evaluation import Evaluation
from cdk_inference.model.recipe.graphs import Graphs, ModelSource, sources_of
from cdk_inference.model.recipe.precision import (
    Auto,
    DynamicInt8,
    Float16,
    Float32,
    PerGraph,
    Precision,
    StaticInt8,
    WeightOnly,
    needs_calibration,
)
from cdk_inference.model.recipe.sources import OnnxFile, TorchModule, TorchProgram, packages_of
from cdk_inference.model.recipe.structure import structure, unstructure
from cdk_inference.model.recipe.tensors import STRING, TensorSpec, check_batch_first, check_specs

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_NAME = 100
_WEIGHTS = 'TorchModule("model.py:build", weights="{}")'
_SOURCES = {
    ".onnx": 'OnnxFile("{}")',
    ".pt": _WEIGHTS,
    ".pt2": 'TorchProgram("{}")',
    ".pth": _WEIGHTS,
    ".safetensors": _WEIGHTS,
}


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
        check(isinstance(self.license, str) and self.license, "license", self.license, "an SPDX identifier")
        check(isinstance(self.origin, str) and self.origin, "origin", self.origin, "a URL or a sentence")


@dataclass(frozen=True)
class ModelRecipe:
    """Everything that determines a built model.

    Parameters
    ----------
    name
        Letters, digits, dots, dashes and underscores, at most 100.
    source
        `TorchModule`, `TorchProgram` or `OnnxFile`; `Graphs` for several graphs that a driver runs as one model.
    inputs, outputs
        The model's tensors, batch first.
    evaluation
        Held-out data and the gate.
    provenance
        Licence and origin of the weights.
    precision
        `Auto` finds the best that passes the gate. `Float32`, `Float16`, `StaticInt8`, `DynamicInt8` or `WeightOnly`
        is shipped if it passes.
    calibration
        ``"file.py:function"`` yielding batches like an evaluation does: a few dozen varied samples that look like
        production data. `StaticInt8` needs it; without it, `Auto` does not try static quantization.
    packages
        Distributions that the factory stands on. Their versions decide, with the recipe and the files that the build
        can read, whether the model is built again. For editable packages, the files in their source folder decide too.
    """

    name: str
    source: ModelSource
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    evaluation: Evaluation
    provenance: Provenance
    precision: Precision = field(default_factory=Auto)
    calibration: str | None = None
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and _NAME.fullmatch(self.name) and len(self.name) <= _MAX_NAME
        check(named, "name", self.name, f"letters, digits, dots, dashes and underscores, at most {_MAX_NAME}")
        for kind in ("inputs", "outputs"):
            object.__setattr__(self, kind, check_specs(kind, getattr(self, kind)))
        names = [s.name for s in (*self.inputs, *self.outputs)]
        repeated = sorted({n for n in names if names.count(n) > 1})
        check(not repeated, "inputs/outputs", repeated, "tensors with different names")
        check_batch_first(self.inputs, self.outputs)
        for spec in self.outputs:
            check(spec.dtype != STRING, f"{spec.name}.dtype", spec.dtype, "a type of numbers; leave it out")
            check(not spec.nan, f"{spec.name}.nan", spec.nan, "False for an output")
        _check_type("source", self.source, TorchModule, TorchProgram, OnnxFile, Graphs)
        if isinstance(self.source, Graphs):
            self.source.check_model(self.inputs, self.outputs)
        _check_type("evaluation", self.evaluation, Evaluation)
        self.evaluation.check_outputs(self.outputs)
        rate = self.evaluation.sample_rate
        heard = rate is None or len(self.inputs[0].shape) > 1
        check(heard, "evaluation.sample_rate", rate, "None unless the first input has samples on its second axis")
        _check_type("provenance", self.provenance, Provenance)
        _check_type("precision", self.precision, Auto, Float32, Float16, StaticInt8, DynamicInt8, WeightOnly, PerGraph)
        if isinstance(self.precision, PerGraph):
            graphs = [*self.source.graphs] if isinstance(self.source, Graphs) else []
            named = sorted(self.precision.graphs) == sorted(graphs)
            check(named, "precision", sorted(self.precision.graphs), f"one for each graph of the source, {graphs}")
        if self.calibration is not None:
            check_function("calibration", self.calibration)
        static = needs_calibration(self.precision)
        check(self.calibration is not None or not static, "calibration", None, "given with StaticInt8")
        packages = check_names("packages", self.packages, "names of distributions, a tuple of strings")
        used = [package for source in sources_of(self.source) for package in packages_of(source)]
        object.__setattr__(self, "packages", tuple(dict.fromkeys((*packages, *used))))

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as JSON-compatible data."""
        data: dict[str, Any] = unstructure(self)
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ModelRecipe:
        """Read what `to_data` wrote."""
        return structure(data, cls)


@check_arguments
def load_recipe(path: str | Path) -> tuple[ModelRecipe, Path]:
    """Run a recipe file and return its ``RECIPE`` with the folder that its paths are relative to.

    Raises
    ------
    ModelBuildError
        If the file is missing, raises, or defines no `ModelRecipe` named ``RECIPE``.
    """
    file = Path(path).absolute()
    rule = "recipe must be a Python file that defines RECIPE"
    if file.is_dir():
        recipes = sorted(each.name for each in file.glob("*.py") if each.is_file() and b"RECIPE" in each.read_bytes())
        raise ModelBuildError(
            f"{rule}, got the folder {file}; "
            + (f"pass {file / recipes[0]}" if recipes else f"write {file / 'recipe.py'}, and pass it")
        )
    if file.suffix in _SOURCES:
        source = _SOURCES[file.suffix].format(file.name)
        raise ModelBuildError(
            f"{rule}, got the model {file}; write a recipe.py next to it, with RECIPE = ModelRecipe(source={source}, …)"
        )
    if not file.is_file():
        raise ModelBuildError(
            f"recipe must be an existing file, got {file}; pass the path of a file that defines RECIPE"
        )
    try:
        recipe = runpy.run_path(str(file)).get("RECIPE")
    except ModelBuildError as error:
        raise ModelBuildError(f"recipe file {file}: {error}") from error
    except Exception as error:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = getattr(error, "lineno", None) or (frames[-1] if frames else "?")
        raise ModelBuildError(
            f"recipe file {file} cannot be run: {type(error).__name__} on line {line}: {error}"
        ) from error
    if not isinstance(recipe, ModelRecipe):
        found = "no RECIPE" if recipe is None else f"a RECIPE of type {type(recipe).__name__}"
        raise ModelBuildError(
            f"recipe file {file} must define a ModelRecipe, got {found}; write RECIPE = ModelRecipe(...)"
        )
    return recipe, file.parent


def _check_type(field_name: str, value: object, *kinds: type) -> None:
    check(isinstance(value, kinds), field_name, value, f"of type {' or '.join(k.__name__ for k in kinds)}")
