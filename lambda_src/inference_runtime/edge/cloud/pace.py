"""When to try again, and how fast to send. Both count by the clock that never jumps."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BURST_SECONDS = 1.0


class Backoff:
    """Waits longer after each failure, up to a limit, and never as long as another device.

    Parameters
    ----------
    first_seconds, most_seconds
        After the first failure, and at most.
    """

    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self._first, self._most = first_seconds, most_seconds
        self._failures = 0
        self._until = 0.0

    def fail(self, *, least_seconds: float = 0.0) -> float:
        """Note a failure, and return the seconds until the next try."""
        limit = min(self._most, self._first * 2.0 ** min(self._failures, 60))
        limit = min(self._most, max(limit, least_seconds))
        self._failures += 1
        seconds = limit * random.uniform(0.5, 1)  # noqa: S311 - no secret
        self._until = time.monotonic() + seconds
        return seconds

    def succeed(self) -> None:
        """Note a success: nothing waits."""
        self._failures, self._until = 0, 0.0

    def left(self) -> float:
        """Return the seconds until the next try, at least 0."""
        return max(0.0, self._until - time.monotonic())


class Pace:
    """Bounds the bytes that are sent in a second.

    Parameters
    ----------
    bytes_per_second
        0 for no limit.
    wait
        Waits so many seconds.
    """

    def __init__(self, bytes_per_second: int, wait: Callable[[float], object]) -> None:
        self._rate = bytes_per_second
        self._wait = wait
        self._free_at = 0.0

    def __call__(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        if not self._rate:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - _BURST_SECONDS)
        if (seconds := self._free_at - now) > 0:
            self._wait(seconds)
        self._free_at += size / self._rate
