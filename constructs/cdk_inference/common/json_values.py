"""Values of parsed JSON whose shape others decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value if it is a mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[Any]:
    """Return the members of a list, or the single value that may stand for one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
