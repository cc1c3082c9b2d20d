"""Turns one record, as JSON or CSV, into a vector of numbers, or a tensor for each column."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.columns import MISSING, Layout, columns_of
from inference_runtime.stages.builtin.json_object import JsonObject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference_runtime.stages.builtin.columns import Described
    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

    Inputs = Mapping[str, tuple[str, Sequence[int]]]
    Read = Callable[[bytes, Item], Array | dict[str, Array]]

_MAX_CSV_BYTES = 8 * 1024**2
"""Most values of a header and one record; a value takes up to 60 bytes, of as few as three in the file."""


def json_preprocessor(fields: Sequence[Described], dtype: str = "float32", inputs: Inputs | None = None) -> Read:
    """Return a preprocessing function for a JSON object with numbers, categories and texts.

    Parameters
    ----------
    fields
        Members that make up the vector, in this order: names of numbers, or descriptions of a `Column`. Others are
        ignored.
    dtype
        numpy's name of the vector's type.
    inputs
        For a model that takes a tensor for each field instead of a vector: dtype and shape of each, by name.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning a vector of shape (len(fields),), or the tensors. true counts as 1 and false
        as 0. A record with one of the fields twice is rejected. A field that is null, NaN or not there is missing.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    columns = columns_of(fields)
    layout = Layout(columns, dtype, inputs)

    def preprocess(data: bytes, item: Item) -> Array | dict[str, Array]:  # noqa: ARG001 - the stage's signature
        record = JsonObject(data)
        return layout.arrange([column.of_json(record.get(column.name, MISSING)) for column in columns])

    return preprocess


def csv_preprocessor(
    columns: Sequence[Described],
    dtype: str = "float32",
    inputs: Inputs | None = None,
    *,
    header: bool = True,
    delimiter: str = ",",
) -> Read:
    """Return a preprocessing function for a CSV file with one record.

    Parameters
    ----------
    columns
        Columns that make up the vector, in this order: names of numbers, or descriptions of a `Column`. Without header:
        all columns, in the file's order.
    dtype
        numpy's name of the vector's type.
    inputs
        For a model that takes a tensor for each column instead of a vector: dtype and shape of each, by name.
    header
        Whether the first line names the columns.
    delimiter
        The separator of columns, one character.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning a vector of shape (len(columns),), or the tensors. Numbers are digits of
        ASCII with an optional sign, decimal point and exponent, and may be in quotes. An empty value is missing.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    wanted = columns_of(columns)
    layout = Layout(wanted, dtype, inputs)
    if len(delimiter) != 1:
        raise ValueError(f"delimiter is {delimiter!r}, expected one character")

    def preprocess(data: bytes, item: Item) -> Array | dict[str, Array]:  # noqa: ARG001 - the stage's signature
        if len(data) > _MAX_CSV_BYTES:
            raise RejectItem(f"CSV is {len(data):,} bytes, at most {_MAX_CSV_BYTES:,} are read as one record")
        try:
            rows = _first_rows(data.decode("utf-8-sig"), delimiter, 3 if header else 2)
        except (UnicodeDecodeError, csv.Error) as error:
            raise RejectItem(f"not CSV in UTF-8: {error}") from error
        names = [name.strip() for name in rows.pop(0)] if header and rows else [column.name for column in wanted]
        if len(rows) != 1:
            raise RejectItem(f"CSV has {'more than 1 record' if rows else '0 records'}, expected 1")
        if len(rows[0]) != len(names):
            raise RejectItem(f"CSV record has {len(rows[0])} columns, expected {len(names)}")
        record: dict[str, str | None] = {}
        for name, text in zip(names, rows[0], strict=True):
            record[name] = None if name in record else text
        return layout.arrange([column.of_csv(_member(record, column.name)) for column in wanted])

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


def _member(record: dict[str, str | None], field: str) -> str:
    if field not in record:
        raise RejectItem(f"field {field!r} is missing, the header has {', '.join(map(repr, record))!s:.200}")
    if (text := record[field]) is None:
        raise RejectItem(f"field {field!r} occurs more than once")
    return text
