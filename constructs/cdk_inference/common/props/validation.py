"""Checks of numbers and choices that many props have in common; numbers that only the deployment knows pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cdk_inference.common.props.type_checks import is_number_token
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_at_least(least: float, **values: float) -> None:
    """Refuse values below a bound, infinite ones, and NaN.

    Raises
    ------
    PropError
        The message names the prop, the bound and the value, as those of all these checks do.
    """
    for name, value in values.items():
        check(math.isfinite(value) and value >= least, name, f"at least {least:g}", value)


def check_above_zero(**values: float) -> None:
    """Refuse values that are not above 0, infinite ones, and NaN."""
    for name, value in values.items():
        check(math.isfinite(value) and value > 0, name, "above 0", value)


def check_share(**values: float) -> None:
    """Refuse values outside of 0 to 1, and NaN."""
    for name, value in values.items():
        check(0 <= value <= 1, name, "a share, from 0 to 1", value)


def check_between(least: float, most: float, unit: str = "", **values: float) -> None:
    """Refuse values outside of two bounds, which are allowed, and NaN."""
    for name, value in values.items():
        check(least <= value <= most, name, f"{least:,} to {most:,} {unit}".rstrip(), value)


def check_choice(choices: Iterable[str], **values: str) -> None:
    """Refuse values that are none of some strings."""
    *others, last = (f"'{choice}'" for choice in choices)
    rule = f"{', '.join(others)} or {last}" if others else last
    for name, value in values.items():
        check(f"'{value}'" in (*others, last), name, rule, f"'{value}'")


def check_either(**values: object) -> None:
    """Refuse both of two values that name the same thing, and none of them."""
    given = sum(value is not None for value in values.values())
    if given != 1:
        raise PropError(f"{' or '.join(values)} must be given, got {'both' if given else 'none'}")


def check(fits: bool, name: str, rule: str, value: object) -> None:
    """Refuse a value that does not fit: ``<name> must be <rule>, got <value>``.

    Raises
    ------
    PropError
        It does not fit, and is known at synth.
    """
    if not fits and not is_number_token(value):
        raise PropError(f"{name} must be {rule}, got {value}")
