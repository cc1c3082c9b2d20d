"""Whether the clock of the device can be believed: many have none that runs without power."""

from __future__ import annotations

import time
from datetime import UTC, datetime

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A clock that shows an earlier time was not set since the device booted."""


def is_set() -> bool:
    """Return whether the clock was set since the device booted."""
    return time.time() >= EARLIEST
