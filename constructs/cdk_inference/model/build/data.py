"""The user's functions, and the batches they yield, checked before anything is computed from them."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cdk_inference.model.recipe import TensorSpec

Batch = dict[str, np.ndarray[Any, Any]]


def load_function(folder: Path, reference: str, field: str) -> Callable[[], Any]:
    """Load ``"file.py:function"`` from the recipe's folder; files in there may import each other."""
    file_name, _, function_name = reference.partition(":")
    file = folder / file_name
    if not file.is_file():
        raise ModelBuildError(f"{field} is '{reference}', but {file} does not exist")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a file of the recipe must not shadow a package
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModelBuildError(f"{field} is '{reference}', but {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelBuildError(f"{field} is '{reference}', but {file} defines no function '{function_name}'")
    return function  # type: ignore[no-any-return]


def load_batches(folder: Path, reference: str, field: str, inputs: Sequence[TensorSpec]) -> list[Batch]:
    """Run a calibration or evaluation function and check each batch against the declared inputs."""
    batches = list(load_function(folder, reference, field)())
    if not batches:
        raise ModelBuildError(f"{field} '{reference}' yielded no batches")
    for index, batch in enumerate(batches):
        where = f"{field} '{reference}', batch {index}"
        if not isinstance(batch, dict) or set(batch) != {s.name for s in inputs}:
            got = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
            raise ModelBuildError(f"{where}: expected a dict with {sorted(s.name for s in inputs)}, got {got}")
        sizes: dict[str, int] = {}
        for spec in inputs:
            check_array(batch[spec.name], spec, where, sizes)
    return batches


def check_array(array: object, spec: TensorSpec, where: str, sizes: dict[str, int]) -> None:
    """Raise if an array is not what a spec declares; `sizes` collects the symbolic sizes of one batch."""
    shape = getattr(array, "shape", None)
    dtype = getattr(array, "dtype", None)
    fits = (
        isinstance(array, np.ndarray)
        and array.dtype == np.dtype(spec.dtype)
        and array.ndim == len(spec.shape)
        and all(
            size == (sizes.setdefault(d, size) if isinstance(d, str) else d)
            for d, size in zip(spec.shape, array.shape, strict=True)
        )
    )
    if not fits:
        got = f"{dtype} {shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ModelBuildError(f"{where}: '{spec.name}' is declared as {spec.dtype} {spec.shape}, got {got}")
