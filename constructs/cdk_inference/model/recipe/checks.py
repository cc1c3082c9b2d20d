"""Checks of a recipe's fields: what is wrong is named with the field, its value and what it must be."""

from __future__ import annotations

import re
from pathlib import Path

from cdk_inference.errors import ModelBuildError

_FUNCTION = re.compile(r"[^:\\]+\.py:[A-Za-z_][A-Za-z0-9_]*")


def check(condition: object, field: str, value: object, expected: str) -> None:
    """Raise unless the condition holds.

    Raises
    ------
    ModelBuildError
        ``recipe field '<field>' must be <expected>, got <value>``; a fix that follows ``; `` in ``expected`` ends it.
    """
    if not condition:
        rule, *fix = expected.split("; ", 1)
        raise ModelBuildError("; ".join([f"recipe field '{field}' must be {rule}, got {value!r}", *fix]))


def check_inside(field: str, value: object) -> None:
    """Check the relative path of a file inside of the recipe's folder."""
    check(isinstance(value, str) and is_inside(value), field, value, "the path of a file inside of the recipe's folder")


def check_function(field: str, value: object) -> None:
    """Check a reference to a function in a file of the recipe's folder."""
    check(is_function(value), field, value, "'file.py:function', a file inside of the recipe's folder")


def check_number(
    field: str,
    value: object,
    expected: str,
    *,
    low: float = float("-inf"),
    high: float = float("inf"),
    above: float = float("-inf"),
) -> None:
    """Check a real number: at least ``low``, more than ``above``, at most ``high``; a bool is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    check(number and low <= value <= high and value > above, field, value, expected)  # type: ignore[operator]


def check_names(field: str, value: object, expected: str) -> tuple[str, ...]:
    """Check a list of names, and return it as a tuple."""
    check(
        isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value),
        field,
        value,
        expected,
    )
    return tuple(value)  # type: ignore[arg-type]


def is_whole(value: object, low: int, high: int) -> bool:
    """Tell whether a value is a whole number from ``low`` to ``high``; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_function(value: object) -> bool:
    """Tell whether a value has the form of a reference to a function in a file of the recipe's folder."""
    return isinstance(value, str) and bool(_FUNCTION.fullmatch(value)) and is_inside(value)


def is_inside(path: str) -> bool:
    """Tell whether a path is relative and stays below where it starts.

    The build would not notice a change of a file outside of the recipe's folder.
    """
    return bool(path) and "\0" not in path and not Path(path).is_absolute() and ".." not in Path(path).parts
