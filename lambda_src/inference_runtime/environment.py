"""Reads the function's environment."""

from __future__ import annotations

import json
import os

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def required(name: str) -> str:
    """Return an environment variable that must be set."""
    value = os.environ.get(name)
    if not value:
        raise StageError(f"environment variable {name} is not set")
    return value


def whole_number(name: str, default: int, least: int, most: int) -> int:
    """Return an environment variable that holds a whole number.

    Raises
    ------
    StageError
        If it is not one from `least` to `most`.
    """
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise StageError(f"{name} must be a whole number from {least:,} to {most:,}, got {text!a:.100}")
    return int(text)


def json_variable(name: str, kind: type) -> Any:  # noqa: ANN401 - the caller names the type
    """Return an environment variable that must hold JSON of the given type."""
    return parsed_json(required(name), f"environment variable {name}", kind)


def parsed_json(text: str, source: str, kind: type) -> Any:  # noqa: ANN401 - the caller names the type
    """Return what a text from `source` says, which must be JSON of the given type.

    Raises
    ------
    StageError
        If it is not.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StageError(f"{source} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise StageError(f"{source} is {type(value).__name__}, expected {kind.__name__}")
    return value
