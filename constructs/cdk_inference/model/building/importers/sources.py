"""Loads what a recipe's source names, whichever kind it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files.fetch import fetch
from cdk_inference.model.process import MISSING_EXTRA
from cdk_inference.model.recipe.sources import OnnxFile, TorchModule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import onnx

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.recipe.sources import Source
    from cdk_inference.model.recipe.tensors import Declared


class Loaded(Protocol):
    """A model in its own framework."""

    @property
    def batch_wide(self) -> bool:
        """Whether it takes scales from a whole batch by design, as dynamic quantization does; the manifest says so."""
        ...

    def run(self, batch: Batch) -> list[np.ndarray[Any, Any]]:
        """Return the model's own outputs for a batch, in the order in which the recipe declares them.

        Raises
        ------
        ModelBuildError
            If the batch is not what the recipe declares, the model cannot compute it, or returns something else.
        """
        ...

    def export(self, batch: Batch, work: Path | None = None) -> onnx.ModelProto:
        """Return the model as one ONNX graph with the declared names and sizes.

        Parameters
        ----------
        batch
            An example; sizes of symbolic axes are taken from it but not kept.
        work
            A folder for the weights of a graph that is large; without one, the graph holds them, which has a limit.

        Raises
        ------
        ModelBuildError
            If it cannot be exported; the message says where.
        """
        ...


def load(
    recipe: Declared,
    source: Source,
    folder: Path,
    cache: Path,
    *,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Load what a source names.

    From here on this process unpickles no files of torch, not even in the user's code: ``torch.load`` reads tensors
    alone.

    Parameters
    ----------
    recipe
        Declares its inputs and outputs.
    source
        One of the recipe's.
    folder
        The recipe's folder.
    cache
        Cache root, for what is fetched.
    on_bytes
        Called while a file is downloaded, as for `download`.

    Raises
    ------
    ModelBuildError
        If a file is missing, damaged, unsafe or of another model, the factory fails, or torch is not installed.
    """
    try:
        return _load(recipe, source, folder, cache, on_bytes)
    except ImportError as error:
        raise ModelBuildError(f"{MISSING_EXTRA} ({error})") from error


def _load(
    recipe: Declared, source: Source, folder: Path, cache: Path, on_bytes: Callable[[int, int], None] | None
) -> Loaded:
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # read at each torch.load
    if isinstance(source, OnnxFile):
        from cdk_inference.model.building.importers.onnx_file import load_onnx  # noqa: PLC0415 - needs no torch

        external = {fetch(file, folder, cache, on_bytes=on_bytes) for file in source.external_data}
        file = fetch(source.file, folder, cache, on_bytes=on_bytes)
        return load_onnx(recipe, file, external, cache / "passes")  # where half made entries are removed some day
    if isinstance(source, TorchModule):
        from cdk_inference.model.building.importers.torch_module import load_module  # noqa: PLC0415 - imports torch

        weights = None if source.weights is None else fetch(source.weights, folder, cache, on_bytes=on_bytes)
        return load_module(recipe, source, folder, weights)
    from cdk_inference.model.building.importers.torch_program import load_program  # noqa: PLC0415 - imports torch

    return load_program(recipe, fetch(source.file, folder, cache, on_bytes=on_bytes))
