"""Columns of a record: how a value becomes a number, or a text for the model to encode itself."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import RejectItem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference_runtime.tensors.tensor import Array

    Described = str | Mapping[str, Any]

MISSING = object()
"""Stands for a value that a record does not have."""

# Python's own parsers take more: underscores, digits of all scripts, "infinity".
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_NUMBERS, _CATEGORIES, _TEXTS = "number", "category", "text"


class Column:
    """A column, or field of a record.

    Parameters
    ----------
    name
        Its name in the record.
    kind
        `number`, `category` or `text`.
    values
        The categories; each becomes its place among them.
    unknown
        The number of a category that is not among them; None to reject the record.
    missing
        The number, or text, where there is no value; None to reject the record. ``"nan"`` stands for NaN.

    Raises
    ------
    ValueError
        If it makes no sense.
    """

    def __init__(
        self,
        name: str,
        kind: str = _NUMBERS,
        *,
        values: Sequence[str] = (),
        unknown: int | None = None,
        missing: float | str | None = None,
    ) -> None:
        if kind not in (_NUMBERS, _CATEGORIES, _TEXTS):
            raise ValueError(f"kind of column {name!r} is {kind!r}, expected {_NUMBERS}, {_CATEGORIES} or {_TEXTS}")
        self.name = name
        self.kind = kind
        self._places = {value: place for place, value in enumerate(values)}
        self._unknown = unknown
        self._missing = math.nan if missing == "nan" and kind != _TEXTS else missing

    @classmethod
    def of(cls, described: Described) -> Column:
        """Return the column that is described by its name, if it is one of numbers, or by the parameters."""
        return cls(described) if isinstance(described, str) else cls(**described)

    def of_json(self, value: object) -> float | str:
        """Return what a value of JSON, or `MISSING`, becomes.

        Raises
        ------
        RejectItem
            The value does not fit the column.
        """
        nan = value != value  # noqa: PLR0124 - only NaN differs from itself
        if self._missing is not None and (value is MISSING or value is None or nan):
            return self._missing
        if value is MISSING:
            raise RejectItem(f"field {self.name!r} is missing")
        if self.kind == _NUMBERS:
            if not isinstance(value, int | float) or nan:  # the model may take NaN, but from another column
                raise RejectItem(f"field {self.name!r} is {value!r:.100}, expected a number")
            return value
        if isinstance(value, int) and not isinstance(value, bool) and self.kind == _CATEGORIES:
            value = str(value)
        if not isinstance(value, str):
            raise RejectItem(f"field {self.name!r} is {value!r:.100}, expected a string")
        return self._of_text(value)

    def of_csv(self, text: str) -> float | str:
        """Return what a text of a CSV file becomes; one that is empty, or only spaces and tabs, is missing.

        Raises
        ------
        RejectItem
            The text does not fit the column.
        """
        plain = text.strip(" \t")
        if not plain and self._missing is not None:
            return self._missing
        if self.kind != _NUMBERS and not plain:
            raise RejectItem(f"field {self.name!r} is {text!r:.100}, expected a string")
        if self.kind != _NUMBERS:
            return self._of_text(text if self.kind == _TEXTS else plain)
        try:
            if _WHOLE.fullmatch(plain):
                return int(plain)
            if _NUMBER.fullmatch(plain):
                return float(plain)
        except ValueError:  # more digits than Python reads
            pass
        raise RejectItem(f"field {self.name!r} is {text!r:.100}, expected a number")

    def _of_text(self, text: str) -> float | str:
        if self.kind == _TEXTS:
            try:
                text.encode()
            except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which is not a character
                raise RejectItem(f"field {self.name!r} is not valid Unicode") from error
            return text
        place = self._places.get(text, self._unknown)
        if place is None:
            raise RejectItem(f"field {self.name!r} is {text!r:.100}, which is none of its {len(self._places)} values")
        return place


def columns_of(described: Sequence[Described]) -> list[Column]:
    """Return the columns that are described, with distinct names.

    Raises
    ------
    ValueError
        If they make no sense.
    """
    columns = [] if isinstance(described, str) else [Column.of(each) for each in described]
    if not columns or len({column.name for column in columns}) != len(columns):
        raise ValueError(f"expected a list of distinct names, got {described!r}")
    return columns


class Layout:
    """Arranges the values of a record as the model takes them: one vector, or a tensor for each column.

    Parameters
    ----------
    columns
        The columns, in the order of the vector.
    dtype
        numpy's name of the vector's type.
    inputs
        dtype and shape, without the batch, of each input of a model that takes a tensor for each column, by its name.

    Raises
    ------
    ValueError
        The type is not one of numbers.
    """

    def __init__(
        self, columns: Sequence[Column], dtype: str, inputs: Mapping[str, tuple[str, Sequence[int]]] | None
    ) -> None:
        self._columns = columns
        self._inputs = inputs
        self._kind = _number_type(dtype)
        if inputs is not None:
            self._kinds = {name: None if kind == "string" else _number_type(kind) for name, (kind, _) in inputs.items()}

    def arrange(self, values: Sequence[float | str]) -> Array | dict[str, Array]:
        """Return the arrays of a record with these values, in the order of the columns.

        Raises
        ------
        RejectItem
            A value does not fit its type.
        """
        if self._inputs is None:
            vector = np.zeros(len(values), self._kind)
            for index, (value, column) in enumerate(zip(values, self._columns, strict=True)):
                _put(vector, index, value, column.name)
            return vector
        return {
            column.name: self._tensor(column.name, value) for value, column in zip(values, self._columns, strict=True)
        }

    def _tensor(self, name: str, value: float | str) -> Array:
        assert self._inputs is not None  # noqa: S101 - for the type checker
        shape = tuple(self._inputs[name][1])
        if (kind := self._kinds[name]) is None:
            text = np.empty(1, object)
            text[0] = value
            return text.reshape(shape)
        vector = np.zeros(1, kind)
        _put(vector, 0, value, name)
        return vector.reshape(shape)


def _put(vector: Array, index: int, value: float | str, name: str) -> None:
    kind = vector.dtype
    try:
        with np.errstate(over="ignore"):
            vector[index] = value
    except (OverflowError, ValueError) as error:  # too large, or NaN for an integer
        raise RejectItem(f"field {name!r} is {value!r:.100}, which does not fit {kind.name}") from error
    if np.isinf(vector[index]):
        raise RejectItem(f"field {name!r} is {value!r:.100}, which does not fit {kind.name}")
    if kind.kind != "f" and vector[index] != value:
        raise RejectItem(f"field {name!r} is {value!r:.100}, which is no {kind.name}")


def _number_type(dtype: str) -> np.dtype[Any]:
    kind = np.dtype(dtype)
    if kind.kind not in "fiu":
        raise ValueError(f'dtype is "{dtype}", expected a type of numbers')
    return kind
