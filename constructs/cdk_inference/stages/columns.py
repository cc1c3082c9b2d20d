"""Columns of a record: how a value of a table becomes what the model takes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.stages.stage_code import read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.tensors import TensorSpec

_LARGEST_EXACT = 2**24  # whole numbers up to here are exact in float32
_LARGEST_PLACES = {"float16": 2**11, "float32": _LARGEST_EXACT}
_LETTERS = {
    "float16": "<e",
    "float32": "<f",
    "float64": "<d",
    "int8": "<b",
    "int16": "<h",
    "int32": "<i",
    "int64": "<q",
    "uint8": "<B",
    "uint16": "<H",
    "uint32": "<I",
    "uint64": "<Q",
}
"""By which the standard library writes a number of a type, or refuses one that does not fit."""


@check_props
@dataclass(frozen=True)
class Column:
    """A column of a CSV file, or a field of a JSON object; made by one of the class methods."""

    name: str
    kind: Literal["number", "category", "text"]
    values: tuple[str, ...] = ()
    unknown: int | None = None
    missing: float | str | None = None

    @classmethod
    def number(cls, name: str, *, missing: float | None = None) -> Column:
        """Take a number.

        Parameters
        ----------
        name
            The column's name.
        missing
            The number that stands for a value that is not there, such as ``math.nan`` for boosted trees. Default: the
            record is rejected.

        Raises
        ------
        PropError
            There is no name, or the number is infinite.
        """
        return cls(_named(name), "number", missing=_checked(name, missing))

    @classmethod
    def category(
        cls,
        name: str,
        values: Sequence[str] | Path,
        *,
        unknown: int | None = None,
        missing: float | None = None,
    ) -> Column:
        """Take a string, and make it the place that it has among the values, from 0.

        Parameters
        ----------
        name
            The column's name.
        values
            The categories in the order by which the model knows them, or the path of a file with one a line.
        unknown
            The number of any other string. Default: the record is rejected.
        missing
            The number that stands for a value that is not there. Default: the record is rejected.

        Raises
        ------
        PropError
            There is no name, the values are not distinct strings without white space around them, or a number is
            infinite or too large.
        """
        found = read_lines(values, "values") if isinstance(values, Path) else list(values)
        bad = next((value for value in found if not value or value != value.strip(" \t")), None)
        if not found or bad is not None or len(set(found)) != len(found):
            got = f"{bad!r}" if bad is not None else f"{len(found)} with {len(set(found))} distinct ones"
            raise PropError(
                f"values of column '{name}' must be distinct strings without white space around them, got {got}; "
                "correct the list"
            )
        if unknown is not None and abs(unknown) > _LARGEST_EXACT:
            raise PropError(f"unknown of column '{name}' must be at most {_LARGEST_EXACT:,}, got {unknown}")
        return cls(_named(name), "category", tuple(found), unknown, _checked(name, missing))

    @classmethod
    def text(cls, name: str, *, missing: str | None = None) -> Column:
        """Take a string as it is, for a model with an input of strings that has the column's name.

        Parameters
        ----------
        name
            The column's name.
        missing
            The string that stands for a value that is not there. Default: the record is rejected.

        Raises
        ------
        PropError
            There is no name.
        """
        return cls(_named(name), "text", missing=missing)

    @property
    def gives_nan(self) -> bool:
        """Whether a missing value becomes NaN."""
        return isinstance(self.missing, float) and math.isnan(self.missing)

    def check_fits(self, spec: TensorSpec) -> None:
        """Check that an input of the model takes what stands for categories, and for values that are not there.

        Raises
        ------
        PropError
            A number does not fit its type.
        """
        if self.kind == "text":
            return
        if self.gives_nan and not spec.nan:
            raise PropError(
                f"missing of column '{self.name}' must be a number, since input '{spec.name}' of the model does not "
                "take NaN, got nan; declare TensorSpec(…, nan=True) in the recipe if it does"
            )
        last = max(len(self.values) - 1, 0)
        checked = (
            ("values", f"{len(self.values):,}", last <= _LARGEST_PLACES.get(spec.dtype, last) and _fits(last, spec)),
            ("unknown", self.unknown, _fits(self.unknown, spec)),
            ("missing", self.missing, self.gives_nan or _fits(self.missing, spec)),
        )
        for prop, got, fits in checked:
            if not fits:
                raise PropError(
                    f"{prop} of column '{self.name}' must fit {spec.dtype}, the type of input '{spec.name}' of the "
                    f"model, got {got}; choose what fits, or another type in the recipe"
                )

    def described(self) -> str | dict[str, object]:
        """Return what the runtime is told: the name alone of a number that must be there."""
        told: dict[str, object] = {"name": self.name, "kind": self.kind}
        if self.values:
            told["values"] = list(self.values)
        if self.unknown is not None:
            told["unknown"] = self.unknown
        if self.missing is not None:
            told["missing"] = "nan" if self.gives_nan else self.missing  # JSON has no NaN
        return self.name if told == {"name": self.name, "kind": "number"} else told


def _named(name: str) -> str:
    if not name:
        raise PropError("name must be that of a column, got ''")
    return name


def _fits(number: float | str | None, spec: TensorSpec) -> bool:
    if not isinstance(number, int | float):
        return True
    try:
        struct.pack(_LETTERS[spec.dtype], int(number) if number == int(number) else number)
    except (OverflowError, struct.error):
        return False
    return True


def _checked(name: str, missing: float | None) -> float | None:
    if missing is not None and math.isinf(missing):
        raise PropError(f"missing of column '{name}' must be a finite number or NaN, got {missing}")
    return missing
