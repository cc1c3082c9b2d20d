"""Checks what a preprocessing function returns against the model's inputs, and stacks it into batches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.environment import json_variable
from inference_runtime.errors import RejectItem, StageError
from inference_runtime.tensors.tensor import DTYPES, STRING, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference_runtime.tensors.tensor import Array


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The model's expectation of one input, for one item.

    Attributes
    ----------
    name
        The input's name.
    dtype
        numpy's name of the type, or `string`.
    shape
        Dimensions without the batch; a string is a free dimension, the same wherever it is named.
    nan
        Whether NaN may be among the values: it stands for a missing one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    nan: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputSpec:
        """Read an entry of `MODEL_INPUTS`, whose shape has the batch as first dimension.

        Raises
        ------
        StageError
            If the model cannot be fed: a type that cannot travel, or no batch dimension.
        """
        if value["dtype"] not in {*DTYPES, STRING} or not value["shape"]:
            raise StageError(
                f"model input {value['name']!r} is {value['dtype']} {value['shape']}, expected a batch dimension "
                f"and {STRING} or one of the types {', '.join(sorted(DTYPES))}"
            )
        return cls(value["name"], value["dtype"], tuple(value["shape"][1:]), value.get("nan", False))


def kept_names() -> list[str]:
    """Return the names of the values that `preprocess` returns for `postprocess` and the row, from `KEEP`.

    Raises
    ------
    StageError
        If the variable is not a list.
    """
    return json_variable("KEEP", list) if "KEEP" in os.environ else []


def check_returned(
    returned: object, specs: Sequence[InputSpec], keep: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what a preprocessing function returned: arrays by input name, and the values to keep by their names.

    Raises
    ------
    StageError
        As `check_inputs` does, or for values that cannot be kept.
    RejectItem
        As `check_inputs` does.
    """
    if not keep:
        return check_inputs(returned, specs), {}
    from inference_runtime.stages.kept import take_kept  # noqa: PLC0415 - few stages keep anything

    inputs, kept = take_kept(returned, keep)
    return check_inputs(inputs, specs), kept


def check_inputs(returned: object, specs: Sequence[InputSpec]) -> dict[str, Array]:
    """Return what a preprocessing function returned as arrays by input name.

    Raises
    ------
    StageError
        Names or types are not the model's. These do not depend on the object, so the function is at fault, and the
        message is kept for after the fix.
    RejectItem
        If a shape does not fit, or a value is infinite, or NaN where that does not stand for a missing one.
    """
    if isinstance(returned, dict):
        if returned.keys() != {spec.name for spec in specs}:
            raise StageError(
                f"preprocess returned inputs {sorted(map(str, returned))}, expected {sorted(s.name for s in specs)}"
            )
        named = returned
    elif len(specs) == 1:
        named = {specs[0].name: returned}
    else:
        raise StageError(
            f"preprocess returned {type(returned).__name__}, expected a dict with the inputs "
            f"{sorted(spec.name for spec in specs)}"
        )
    symbols: dict[str, int] = {}
    return {spec.name: _check(named[spec.name], spec, symbols) for spec in specs}


def _check(value: object, spec: InputSpec, symbols: dict[str, int]) -> Array:
    # A copy: user code may reuse its buffer for the next item.
    array = np.array(value, order="C")
    fits = array.ndim == len(spec.shape) and all(
        # A free dimension takes the first size seen under its name.
        actual == (symbols.setdefault(expected, actual) if isinstance(expected, str) else expected)
        for actual, expected in zip(array.shape, spec.shape, strict=True)
    )
    dtype = type_of(array)
    if dtype != spec.dtype or not fits:
        error = RejectItem if dtype == spec.dtype else StageError
        raise error(f"input {spec.name!r} is {dtype} {list(array.shape)}, expected {spec.dtype} {list(spec.shape)}")
    if array.dtype.kind == "f":
        good = ~np.isinf(array) if spec.nan else np.isfinite(array)
        if bad := array.size - int(good.sum()):
            raise RejectItem(f"input {spec.name!r} has {bad:,} values that are {'' if spec.nan else 'NaN or '}infinite")
    return array


def type_of(array: Array) -> str:
    """Return numpy's name of an array's type, or `string`."""
    strings = array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(each, str) for each in array.flat))
    return STRING if strings else array.dtype.name


def group_by_shape(scored: Sequence[tuple[int, dict[str, Array]]]) -> list[tuple[list[int], dict[str, Tensor]]]:
    """Stack the inputs of items with equal shapes along a new first axis.

    Returns
    -------
    list
        Indices and batched tensors by name, in the order in which the shapes appear.
    """
    groups: dict[tuple[tuple[int, ...], ...], list[tuple[int, dict[str, Array]]]] = {}
    for index, arrays in scored:
        groups.setdefault(tuple(array.shape for array in arrays.values()), []).append((index, arrays))
    return [
        (
            [index for index, _ in members],
            {name: Tensor.of(np.stack([a[name] for _, a in members])) for name in members[0][1]},
        )
        for members in groups.values()
    ]
