"""Turns the tensors that a file declares into those of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.errors import ModelBuildError
from cdk_inference.init.errors import InitError
from cdk_inference.model.recipe.tensors import DTYPES, STRING, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = "batch"


@dataclass(frozen=True)
class Declared:
    """A tensor as a file declares it.

    Parameters
    ----------
    name
        Its name.
    dtype
        NumPy's name of its type, or another word for what no recipe takes, such as ``string``.
    shape
        Its sizes: a number, a symbol, or ``None`` where nothing is said. ``None`` for the whole if even the number of
        axes is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


def recipe_tensors(
    inputs: Sequence[Declared], outputs: Sequence[Declared], subject: str, *, frees_batch: bool
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]:
    """Return the inputs, the outputs, and a note for each output that is left out.

    Parameters
    ----------
    subject
        Names the file in messages.
    frees_batch
        Whether the build can free a batch that is fixed to one sample.

    Raises
    ------
    InitError
        An input has no batch, or no output is left.
    """
    try:
        return _recipe_tensors(inputs, outputs, subject, frees_batch=frees_batch)
    except ModelBuildError as error:
        raise InitError(f"{subject} cannot be declared in a recipe: {error}") from error


def _recipe_tensors(
    inputs: Sequence[Declared], outputs: Sequence[Declared], subject: str, *, frees_batch: bool
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]:
    if not inputs:
        raise InitError(f"{subject} must have an input, got none; export it again")
    for tensor in inputs:
        if tensor.dtype not in (*DTYPES, STRING) or not tensor.shape:
            found = "a tensor without a batch" if tensor.dtype in (*DTYPES, STRING) else tensor.dtype
            raise InitError(
                f"{subject} must have inputs of numbers or strings, batch first, got '{tensor.name}', which is "
                f"{found}; make a constant of what never changes"
            )
    shapes = [tensor.shape or () for tensor in inputs]
    batch = _batch(shapes[0][0], frees_batch=frees_batch)
    for tensor, shape in zip(inputs, shapes, strict=True):
        if _batch(shape[0], frees_batch=frees_batch) != batch:
            raise InitError(
                f"{subject} must have inputs with one batch size, got {shape[0]!r} for '{tensor.name}' and "
                f"{shapes[0][0]!r} for '{inputs[0].name}'; export it again with the batch first"
            )
    notes = []
    kept = []
    for tensor in outputs:
        if reason := _unfit(tensor, batch, frees_batch=frees_batch):
            notes.append(f"output '{tensor.name}' is left out, since {reason}")
        else:
            kept.append(tensor)
    if not kept:
        raise InitError(
            f"{subject} must have an output of numbers, batch first, got none; {'; '.join(notes) or 'export it again'}"
        )
    return (
        tuple(_spec(tensor, batch) for tensor in inputs),
        tuple(_spec(tensor, batch) for tensor in kept),
        tuple(notes),
    )


def _batch(size: int | str | None, *, frees_batch: bool) -> int | str:
    return size if isinstance(size, int) and not (size == 1 and frees_batch) else BATCH


def _unfit(tensor: Declared, batch: int | str, *, frees_batch: bool) -> str:
    """Say why an output is none that a recipe takes, if so."""
    if tensor.dtype not in DTYPES:
        return f"it is {tensor.dtype}, not numbers"
    if not tensor.shape:
        return "its shape is not declared" if tensor.shape is None else "it has no batch"
    if _batch(tensor.shape[0], frees_batch=frees_batch) != batch:
        return f"its first size is {tensor.shape[0]}, not the batch"
    return ""


def _spec(tensor: Declared, batch: int | str) -> TensorSpec:
    sizes = [_size(tensor.name, axis, size) for axis, size in enumerate(tensor.shape or ())]
    return TensorSpec(tensor.name, tensor.dtype, (batch, *sizes[1:]))


def _size(name: str, axis: int, size: int | str | None) -> int | str:
    """Return a size that a recipe takes: exporters name symbols by expressions, such as ``height/32``."""
    if isinstance(size, int):
        return size
    symbol = re.sub(r"\W+", "_", size or f"{name}_{axis}", flags=re.ASCII).strip("_") or f"size_{axis}"
    symbol = symbol if not symbol[0].isdigit() else f"size_{symbol}"
    return symbol if symbol != BATCH else f"{symbol}_{axis}"
