"""Turns one record, as JSON or CSV, into a vector of numbers."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import RejectItem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.item import Item
    from inference_runtime.tensor import Array


def json_preprocessor(fields: Sequence[str], dtype: str = "float32") -> Callable[[bytes, Item], Array]:
    """Return a preprocessing function for a JSON object with numbers.

    Parameters
    ----------
    fields
        Members that make up the vector, in this order. Others are ignored.
    dtype
        numpy's name of the vector's type.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning a vector of shape (len(fields),). true counts as 1 and false as 0.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    kind = _checked(fields, dtype)

    def preprocess(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RejectItem(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise RejectItem(f"JSON is {type(record).__name__}, expected an object")
        return _vector([_member(record, field) for field in fields], fields, kind)

    return preprocess


def csv_preprocessor(
    columns: Sequence[str], dtype: str = "float32", *, header: bool = True, delimiter: str = ","
) -> Callable[[bytes, Item], Array]:
    """Return a preprocessing function for a CSV file with one record.

    Parameters
    ----------
    columns
        Columns that make up the vector, in this order. Without header: the names of all columns, in the file's order.
    dtype
        numpy's name of the vector's type.
    header
        Whether the first line names the columns.
    delimiter
        What separates columns, one character.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning a vector of shape (len(columns),).

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    kind = _checked(columns, dtype)
    if len(delimiter) != 1:
        raise ValueError(f"delimiter is {delimiter!r}, expected one character")

    def preprocess(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        try:
            text = data.decode("utf-8-sig")
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise RejectItem(f"not CSV in UTF-8: {error}") from error
        names = [name.strip() for name in rows.pop(0)] if header and rows else list(columns)
        if len(rows) != 1:
            raise RejectItem(f"CSV has {len(rows)} records, expected 1")
        if len(rows[0]) != len(names):
            raise RejectItem(f"CSV record has {len(rows[0])} columns, expected {len(names)}")
        record = dict(zip(names, rows[0], strict=True))
        return _vector([_parsed(_member(record, name), name) for name in columns], columns, kind)

    return preprocess


def _checked(fields: Sequence[str], dtype: str) -> np.dtype[Any]:
    if isinstance(fields, str) or not fields or len(set(fields)) != len(fields):
        raise ValueError(f"expected a list of distinct names, got {fields!r}")
    kind = np.dtype(dtype)
    if kind.kind not in "fiu":
        raise ValueError(f'dtype is "{dtype}", expected a type of numbers')
    return kind


def _member(record: dict[str, Any], field: str) -> Any:  # noqa: ANN401 - any JSON value
    if field not in record:
        raise RejectItem(f"field {field!r} is missing")
    return record[field]


def _parsed(text: str, field: str) -> float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise RejectItem(f"field {field!r} is {text!r:.100}, expected a number") from error


def _vector(values: Sequence[object], fields: Sequence[str], kind: np.dtype[Any]) -> Array:
    vector = np.zeros(len(fields), kind)
    for index, (value, field) in enumerate(zip(values, fields, strict=True)):
        if not isinstance(value, int | float):
            raise RejectItem(f"field {field!r} is {value!r:.100}, expected a number")
        try:
            with np.errstate(over="ignore"):
                vector[index] = value
        except (OverflowError, ValueError) as error:  # too large, or NaN for an integer
            raise RejectItem(f"field {field!r} is {value!r:.100}, which does not fit {kind.name}") from error
        if kind.kind != "f" and vector[index] != value:
            raise RejectItem(f"field {field!r} is {value!r:.100}, which is no {kind.name}")
    return vector
