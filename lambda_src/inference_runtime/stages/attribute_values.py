"""Items of DynamoDB as plain JSON: what a stream's record has as typed values."""

from __future__ import annotations

from typing import Any

from inference_runtime.errors import MalformedMessageError


def plain(image: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return an item as plain JSON: numbers as numbers, sets as lists, and bytes in base64, as a pipe brings them.

    Numbers with a fraction become floats, which keep 15 digits.

    Raises
    ------
    MalformedMessageError
        It is not an item of DynamoDB.
    """
    try:
        return {name: _value(value) for name, value in image.items()}
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise MalformedMessageError(f"body is not an item of DynamoDB: {type(error).__name__}: {error}") from error


def _value(typed: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    ((kind, value),) = typed.items()
    return _READERS[kind](value)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _same(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return value


_READERS = {
    "S": _same,
    "N": _number,
    "B": _same,
    "BOOL": _same,
    "NULL": lambda _: None,
    "M": lambda members: {name: _value(value) for name, value in members.items()},
    "L": lambda values: [_value(value) for value in values],
    "SS": _same,
    "NS": lambda numbers: [_number(number) for number in numbers],
    "BS": _same,
}
