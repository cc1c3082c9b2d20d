"""A built model, run by the engine of the functions in AWS."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE
from cdk_inference.model.records.manifest import Manifest
from cdk_inference.testing.stage import environment
from inference_runtime.model import DRIVER_FILE, MODEL_FILE
from inference_runtime.stages.inputs import InputSpec
from inference_runtime.tensors.tensor import Tensor, arrays_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias, TypeVar

    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.model.recipe.targets import Architecture
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Distribution
    from inference_runtime.engine.engine import LocalEngine
    from inference_runtime.tensors.tensor import Array

    ModelSource: TypeAlias = "LocalModel | BuiltModel | ModelArtifact | str | Path"
    StageT = TypeVar("StageT")

_MANIFEST = "manifest.json"


class LocalModel:
    """A built model on this machine.

    Parameters
    ----------
    manifest
        The manifest of its build.
    folder
        Folder with its files.

    Attributes
    ----------
    version
        Its version.
    inputs, outputs
        Its inputs and outputs, with the batch axis.
    manifest, folder
        As given.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.version = manifest.model_version
        self.inputs: tuple[TensorSpec, ...] = manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = manifest.outputs
        self.manifest = manifest
        self.folder = folder.absolute()

    @classmethod
    def of(cls, source: ModelSource, *, architecture: Architecture = DEFAULT_ARCHITECTURE) -> LocalModel:
        """Return the model that a recipe, a folder or a construct stands for.

        Parameters
        ----------
        source
            The path of a recipe or of the folder of a built model, a `BuiltModel`, a `ModelArtifact` or a `LocalModel`.
            A recipe is built unless it is in the cache.
        architecture
            The CPUs that a recipe is built for, as those of your functions: ``"arm64"``, the default, or ``"x86_64"``.

        Raises
        ------
        PropError
            There is no such model.
        ModelBuildError
            The recipe cannot be built.
        """
        if isinstance(source, LocalModel):
            return source
        if isinstance(source, str | Path):
            return cls._from_path(Path(source), architecture)
        built = source.build() if hasattr(source, "build") else source
        return cls(built.manifest, built.path)

    @classmethod
    def _from_path(cls, path: Path, architecture: Architecture) -> LocalModel:
        if path.suffix == ".py":
            from cdk_inference.model.project import build_model  # noqa: PLC0415 - only for recipes

            built = build_model(path, architecture=architecture)
            return cls(built.manifest, built.path)
        names = {file.name for file in path.iterdir()} if path.is_dir() else set()
        if _MANIFEST not in names or names.isdisjoint((MODEL_FILE, DRIVER_FILE)):
            raise PropError(
                f"model must be a recipe or a folder with {_MANIFEST} and {MODEL_FILE} or {DRIVER_FILE}, got "
                f"'{path}'; looked in {Path.cwd()}"
            )
        try:
            return cls(Manifest.from_json((path / _MANIFEST).read_text(encoding="utf-8")), path)
        except ValueError as error:
            raise PropError(f"model must have a readable {_MANIFEST}, got '{path}': {error}") from None

    def fitted(self, stage: StageT) -> StageT:
        """Return a stage as a pipeline fits it to the values of the model's outputs; functions stay as they are."""
        fitting: Callable[[Mapping[str, Distribution]], StageT] | None = getattr(stage, "fitting", None)
        return stage if fitting is None else fitting(self.manifest.distributions)

    def input_specs(self) -> list[InputSpec]:
        """Return what the runtime checks arrays against."""
        return [InputSpec.from_json(spec.for_runtime()) for spec in self.inputs]

    def run(self, inputs: Mapping[str, Array], *, timeout: float = inf) -> dict[str, Array]:
        """Return the model's outputs for one object, by name, without the batch axis.

        Parameters
        ----------
        inputs
            The inputs by name, without the batch axis.
        timeout
            Seconds after which a model of several steps gives up. Default: it never does.

        Raises
        ------
        Exception
            As the runtime and ONNX Runtime raise it, if the model cannot run on them.
        """
        self._engine.start_deadline(timeout)
        outputs = arrays_of(self.infer({name: Tensor.of(array[None]) for name, array in inputs.items()}))
        return {name: array[0] for name, array in outputs.items()}

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs for a batch, until the time of the last `run` is over."""
        return self._engine.infer(inputs)

    @cached_property
    def _engine(self) -> LocalEngine:
        """The engine with the package of ONNX Runtime, which is there on all systems."""
        from inference_runtime.engine.engine import LocalEngine  # noqa: PLC0415 - only to run the model

        root = Path(tempfile.mkdtemp(prefix="cdk-inference-model-"))
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        (root / "model").symlink_to(self.folder)
        variables: dict[str, Any] = {
            "LAMBDA_TASK_ROOT": str(root),
            "MODEL_DELIVERY": "package",
            "INFERENCE_ENGINE": "python",
            "ACCELERATOR": "",
        }
        with environment(variables):
            return LocalEngine()
