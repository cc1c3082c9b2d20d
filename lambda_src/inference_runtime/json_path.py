"""Finds a value in JSON by a path of names."""

from __future__ import annotations

import json
from typing import Any


def text_at(body: str | bytes, path: str) -> str:
    """Return the text or whole number at a path such as ``order.lines.0.id`` of a text of JSON; empty if there is none.

    Parameters
    ----------
    body
        A text, which need not be JSON.
    path
        Names of members and numbers of elements, separated by dots.
    """
    try:
        found: Any = json.loads(body)
        for name in path.split("."):
            found = found[int(name) if isinstance(found, list) else name]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return str(found) if isinstance(found, (str, int)) and not isinstance(found, bool) else ""
