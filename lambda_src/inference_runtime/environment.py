"""Reads the function's environment."""

from __future__ import annotations

import os

from inference_runtime.errors import StageError


def required(name: str) -> str:
    """Return an environment variable that must be set."""
    value = os.environ.get(name)
    if not value:
        raise StageError(f"environment variable {name} is not set")
    return value
