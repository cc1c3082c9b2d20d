"""The user's functions, and the batches they yield, checked before anything is computed from them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.recipe.tensors import STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cdk_inference.model.recipe.tensors import TensorSpec

Batch = dict[str, np.ndarray[Any, Any]]
_HOW_TO_MISS = "; if NaN stands for missing values, declare TensorSpec(…, nan=True)"
_LABELLED, _DESCRIBED = 2, 3  # members of a batch that is a tuple


@dataclass(frozen=True)
class Samples:
    """The samples that a data function yielded.

    Parameters
    ----------
    inputs
        A dict from input name to array for each batch.
    labels
        Labels for each batch, or None.
    descriptions
        A text per sample for each batch, or None.
    """

    inputs: list[Batch] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    descriptions: list[list[str] | None] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        """Whether every batch has labels."""
        return all(labels is not None for labels in self.labels)

    @property
    def digest(self) -> str:
        """Hash of all inputs."""
        return digest_batches(self.inputs)

    @property
    def sizes(self) -> list[int]:
        """Number of samples in each batch."""
        return [batch_size(batch) for batch in self.inputs]


def batch_size(batch: Batch) -> int:
    """Return the number of samples in a batch."""
    return len(next(iter(batch.values())))


def digest_batches(batches: Sequence[Batch]) -> str:
    """Return the hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            array = batch[name]
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            # NumPy gives no buffer of strings.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load_function(folder: Path, reference: str, field_name: str) -> Callable[..., Any]:
    """Load ``"file.py:function"`` from the recipe's folder; files there may import each other."""
    file_name, _, function_name = reference.partition(":")
    file = folder / file_name
    if not file.is_file():
        raise ModelBuildError(f"{field_name} must name an existing file, got '{reference}'; write {file}")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a file of the recipe must not shadow a package
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModelBuildError(f"{field_name} must name a Python file, got '{reference}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelBuildError(f"{field_name} must name a function that {file} defines, got '{reference}'")
    return function  # type: ignore[no-any-return]


def load_samples(folder: Path, reference: str, field_name: str, inputs: Sequence[TensorSpec]) -> Samples:
    """Run a calibration or evaluation function to its end.

    Raises
    ------
    ModelBuildError
        If it yields nothing, or a batch that does not fit the declared inputs.
    """
    samples = Samples()
    for batch, labels, descriptions in iterate(folder, reference, field_name, inputs):
        samples.inputs.append(batch)
        samples.labels.append(labels)
        samples.descriptions.append(descriptions)
    return samples


def first_batch(folder: Path, reference: str, field_name: str, inputs: Sequence[TensorSpec]) -> Batch:
    """Return the first batch alone."""
    return next(iterate(folder, reference, field_name, inputs))[0]


def iterate(
    folder: Path, reference: str, field_name: str, inputs: Sequence[TensorSpec]
) -> Iterator[tuple[Batch, Any, list[str] | None]]:
    """Yield inputs, labels and descriptions of each batch, checked."""
    yielded = load_function(folder, reference, field_name)()
    one_alone = isinstance(yielded, tuple) and yielded and isinstance(yielded[0], dict)
    if isinstance(yielded, dict) or (one_alone and not all(isinstance(each, dict | tuple) for each in yielded)):
        raise ModelBuildError(
            f"{field_name} '{reference}' must yield batches, got one {type(yielded).__name__} that it returns; "
            "write yield in the place of return"
        )
    try:
        batches = iter(yielded)
    except TypeError:
        raise ModelBuildError(f"{field_name} '{reference}' must yield batches, got {type(yielded).__name__}") from None
    index = -1
    for index, item in enumerate(batches):
        yield _check_batch(item, inputs, f"{field_name} '{reference}', batch {index}")
    if index < 0:
        raise ModelBuildError(f"{field_name} '{reference}' must yield at least one batch, got none")


def _check_batch(item: object, inputs: Sequence[TensorSpec], where: str) -> tuple[Batch, Any, list[str] | None]:
    batch, labels, descriptions = item, None, None
    if isinstance(item, tuple):
        if len(item) not in (_LABELLED, _DESCRIBED):
            raise ModelBuildError(
                f"{where} must be (inputs, labels) or (inputs, labels, descriptions), got {len(item)} members"
            )
        batch, labels, descriptions = (*item, None)[:3]
    if not isinstance(batch, dict) or set(batch) != {s.name for s in inputs}:
        got = sorted(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
        raise ModelBuildError(f"{where} must be a dict with {sorted(s.name for s in inputs)}, got {got}")
    batch = {name: _plain(array) for name, array in batch.items()}
    sizes: dict[str, int] = {}
    for spec in inputs:
        check_array(batch[spec.name], spec, where, sizes)
        _check_finite(batch[spec.name], spec, where)
    counts = {len(array) for array in batch.values()}
    if 0 in counts:
        raise ModelBuildError(f"{where} must have samples, got none; leave empty batches out")
    if len(counts) > 1:
        found = ", ".join(f"'{name}' {len(array)}" for name, array in batch.items())
        raise ModelBuildError(
            f"{where} must have the same number of samples for each input, got {found}; make the first axis the batch"
        )
    if labels is not None:
        labels = np.asarray(labels) if not isinstance(labels, list) else labels
        _check_count("labels", labels, counts, where)
    if descriptions is not None:
        descriptions = [str(text) for text in descriptions]
        _check_count("descriptions", descriptions, counts, where)
    return batch, labels, descriptions


def _check_count(what: str, values: Any, counts: set[int], where: str) -> None:  # noqa: ANN401 - anything with a length
    sized = not isinstance(values, np.ndarray) or values.ndim > 0
    if not sized or len(values) not in counts:
        got = len(values) if sized else "a single value"
        raise ModelBuildError(f"{where} must have {min(counts)} {what}, one per sample, got {got}")


def _check_finite(array: np.ndarray[Any, Any], spec: TensorSpec, where: str) -> None:
    if array.dtype.kind != "f":
        return
    good = ~np.isinf(array) if spec.nan else np.isfinite(array)
    if bad := int(array.size - np.count_nonzero(good)):
        rule, fix = ("finite or NaN", "") if spec.nan else ("finite", _HOW_TO_MISS if np.isnan(array).any() else "")
        raise ModelBuildError(
            f"{where}: '{spec.name}' must be {rule}, got {bad} of {array.size} values that are not{fix}"
        )


def _plain(array: Any) -> Any:  # noqa: ANN401 - whatever the user yields
    """Return strings that are Python objects, as pandas has them, as NumPy's own."""
    objects = isinstance(array, np.ndarray) and array.dtype.kind == "O"
    return array.astype(str) if objects and all(isinstance(each, str) for each in array.flat) else array


def check_array(array: object, spec: TensorSpec, where: str, sizes: dict[str, int]) -> None:
    """Raise if an array is not what a spec declares; `sizes` collects the symbolic sizes of one batch."""
    shape = getattr(array, "shape", None)
    dtype = getattr(array, "dtype", None)
    fits = (
        isinstance(array, np.ndarray)
        and (array.dtype.kind == "U" if spec.dtype == STRING else array.dtype == np.dtype(spec.dtype))
        and array.ndim == len(spec.shape)
        and all(
            size == (sizes.setdefault(d, size) if isinstance(d, str) else d)
            for d, size in zip(spec.shape, array.shape, strict=True)
        )
    )
    if not fits:
        got = f"{dtype} {shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ModelBuildError(f"{where}: '{spec.name}' must be {spec.dtype} {spec.shape}, as declared, got {got}")
