"""Values that a preprocessing function returns besides the model's inputs: for its postprocessing, and for the row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import StageError
from inference_runtime.stages.rows import MAX_DEPTH, ResultError, kept_attribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_KEPT_BYTES = 2_000
"""Most bytes of an item's values as JSON, with escapes: those of a batch of 32 take a quarter of a workflow's state."""

_LARGEST_EXACT = 2**53
"""Whole numbers up to this size survive a workflow, which has all numbers as floating-point ones."""


def take_kept(returned: object, keep: Sequence[str]) -> tuple[dict[object, object], dict[str, Any]]:
    """Take the values to keep out of what a preprocessing function returned.

    Parameters
    ----------
    returned
        A dict with the model's inputs, and these values.
    keep
        Their names.

    Returns
    -------
    tuple
        The inputs, and a copy of the values as they are in JSON: NumPy's numbers and arrays as numbers and lists.

    Raises
    ------
    StageError
        A value is missing, is not JSON, or all of them are larger than `MAX_KEPT_BYTES`.
    """
    if not isinstance(returned, dict):
        raise StageError(
            f"preprocess returned {type(returned).__name__}, expected a dict with the inputs and {', '.join(keep)}"
        )
    if missing := [name for name in keep if name not in returned]:
        raise StageError(f"preprocess returned no {', '.join(missing)}, expected all that keep names")
    values = {name: returned[name] for name in keep}
    _check_length(values)
    try:
        kept_attribute(values)
        _check_types(values, "kept")
    except ResultError as error:
        raise StageError(f"preprocess returned a value that cannot be kept: {error}") from error
    text = json.dumps(values, default=_plain)
    if len(text) > MAX_KEPT_BYTES:
        raise _too_large(f"{len(text):,}", keep)
    return {name: value for name, value in returned.items() if name not in values}, json.loads(text)


def _check_length(values: dict[str, Any]) -> None:
    """Refuse values that are too large for sure, before they are converted: a photograph takes gigabytes as a list.

    Each character and each member of a list or a dict takes a byte of JSON at least.

    Raises
    ------
    StageError
        They have more of these than `MAX_KEPT_BYTES`.
    """
    level: list[object] = [values]
    length = 0
    for _ in range(MAX_DEPTH):
        length += sum(map(_length, level))
        if length > MAX_KEPT_BYTES:
            raise _too_large(f"over {MAX_KEPT_BYTES:,}", values)
        level = [member for value in level for member in _members(_plain(value))]


def _length(value: object) -> int:
    if isinstance(value, np.ndarray):
        return value.size
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list | tuple) else ()


def _too_large(length: str, keep: Iterable[str]) -> StageError:
    return StageError(
        f"preprocess returned {length} bytes of JSON to keep, expected at most {MAX_KEPT_BYTES:,}: {', '.join(keep)}"
    )


def _check_types(value: object, path: str) -> None:
    """Refuse what a row holds and JSON does not.

    Raises
    ------
    ResultError
        With the path of the value.
    """
    value = _plain(value)
    if isinstance(value, dict):
        for name, member in value.items():
            _check_types(member, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            _check_types(member, f"{path}[{index}]")
    elif value is not None and not isinstance(value, str | int | float):
        raise ResultError(f"{path} is {type(value).__name__}, which is neither text, number, boolean, list nor dict")
    elif isinstance(value, int) and abs(value) > _LARGEST_EXACT:
        raise ResultError(f"{path} is {value}, expected at most 2^53: return such a number as text")


def _plain(value: object) -> object:
    """Return NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
