"""Durations as AWS takes them, in whole seconds, and as environment variables hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Tokenization

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import Duration


def seconds(prop: str, duration: Duration, *, least: int, most: int) -> int | None:
    """Return the seconds of a duration, or ``None`` for a token.

    Raises
    ------
    PropError
        The duration is not in whole seconds, or out of range; the message names the prop.
    """
    if duration.is_unresolved():
        return None
    value = duration.to_seconds(integral=False)
    if value != int(value):
        raise PropError(f"{prop} must be in whole seconds, got {value} s")
    if not least <= value <= most:
        raise PropError(f"{prop} must be {least:,} to {most:,} seconds, got {int(value)}")
    return int(value)


def days_text(prop: str, duration: Duration) -> str:
    """Return the days of a duration as a string, which is resolved at deployment if the duration is a token.

    Raises
    ------
    PropError
        The duration is 0; the message names the prop.
    """
    if duration.is_unresolved():
        return Tokenization.stringify_number(duration.to_days())
    days = duration.to_days(integral=False)
    if days <= 0:
        raise PropError(f"{prop} must be longer than 0, got {days:g} days")
    return str(int(days) if days == int(days) else days)
