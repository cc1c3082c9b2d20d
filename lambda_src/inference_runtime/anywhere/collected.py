"""Rows that stay in this process, for a caller of the handler that stores them itself."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference_runtime.stages.rows import Attribute


class CollectedRows:
    """Keeps rows until they are taken."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Attribute]] = {}

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Keep a row; see `sinks.ResultSink`."""
        self._rows[attributes["id"]["S"]] = attributes  # one step, so that threads need no lock
        return True

    def take(self) -> dict[str, dict[str, Attribute]]:
        """Return the rows by the `id` of their items, and keep them no longer."""
        rows, self._rows = self._rows, {}
        return rows


@cache
def collected_rows() -> CollectedRows:
    """Return the rows of this process."""
    return CollectedRows()
