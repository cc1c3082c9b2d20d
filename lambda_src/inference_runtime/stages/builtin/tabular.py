"""Turns one record, as JSON or CSV, into a vector of numbers."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.json_object import JsonObject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_MAX_CSV_BYTES = 8 * 1024**2
"""Most values of a header and one record; a value takes up to 60 bytes, of as few as three in the file."""

# Python's own parsers take more: underscores, digits of all scripts, "infinity".
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


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
        `preprocess(data, item)`, returning a vector of shape (len(fields),). true counts as 1 and false as 0. A record
        with one of the fields twice is rejected.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    kind = _checked(fields, dtype)

    def preprocess(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        record = JsonObject(data)
        return _vector([record[field] for field in fields], fields, kind)

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
        The separator of columns, one character.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning a vector of shape (len(columns),). Numbers are digits of ASCII with an
        optional sign, decimal point and exponent, and may be in quotes.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    kind = _checked(columns, dtype)
    if len(delimiter) != 1:
        raise ValueError(f"delimiter is {delimiter!r}, expected one character")

    def preprocess(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        if len(data) > _MAX_CSV_BYTES:
            raise RejectItem(f"CSV is {len(data):,} bytes, at most {_MAX_CSV_BYTES:,} are read as one record")
        try:
            rows = _first_rows(data.decode("utf-8-sig"), delimiter, 3 if header else 2)
        except (UnicodeDecodeError, csv.Error) as error:
            raise RejectItem(f"not CSV in UTF-8: {error}") from error
        names = [name.strip() for name in rows.pop(0)] if header and rows else list(columns)
        if len(rows) != 1:
            raise RejectItem(f"CSV has {'more than 1 record' if rows else '0 records'}, expected 1")
        if len(rows[0]) != len(names):
            raise RejectItem(f"CSV record has {len(rows[0])} columns, expected {len(names)}")
        record: dict[str, str | None] = {}
        for name, text in zip(names, rows[0], strict=True):
            record[name] = None if name in record else text
        return _vector([_parsed(record, name) for name in columns], columns, kind)

    return preprocess


def _first_rows(text: str, delimiter: str, most: int) -> list[list[str]]:
    """Return as many rows at most, without empty ones."""
    rows = []
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
        if row:
            rows.append(row)
        if len(rows) == most:
            break
    return rows


def _checked(fields: Sequence[str], dtype: str) -> np.dtype[Any]:
    if isinstance(fields, str) or not fields or len(set(fields)) != len(fields):
        raise ValueError(f"expected a list of distinct names, got {fields!r}")
    kind = np.dtype(dtype)
    if kind.kind not in "fiu":
        raise ValueError(f'dtype is "{dtype}", expected a type of numbers')
    return kind


def _parsed(record: dict[str, str | None], field: str) -> float:
    if field not in record:
        raise RejectItem(f"field {field!r} is missing")
    if (text := record[field]) is None:
        raise RejectItem(f"field {field!r} occurs more than once")
    plain = text.strip(" \t")
    try:
        if _WHOLE.fullmatch(plain):
            return int(plain)
        if _NUMBER.fullmatch(plain):
            return float(plain)
    except ValueError:  # more digits than Python reads
        pass
    raise RejectItem(f"field {field!r} is {text!r:.100}, expected a number")


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
