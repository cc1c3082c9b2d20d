"""The clock of a simulation: what happens next, and how often something may happen."""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Runs actions in the order of their times. The one that was planned first goes first at the same time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Plan an action."""
        heapq.heappush(self._planned, (max(time, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action for so many seconds from now."""
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        """Run actions until none is left, or a moment is reached."""
        planned = self._planned
        while planned and planned[0][0] <= until:
            self.now, _, action = heapq.heappop(planned)
            action()


class RateLimit:
    """A token bucket that delays what it would refuse, since callers of AWS try again.

    Parameters
    ----------
    per_second
        Tokens that are added a second.
    bucket
        Tokens at most. Default: those of a second.
    """

    def __init__(self, per_second: float, bucket: float | None = None) -> None:
        self.per_second = per_second
        self.bucket = per_second if bucket is None else bucket
        self._free_at = 0.0

    def delay(self, now: float, tokens: float) -> float:
        """Take tokens, and return the seconds until there are as many."""
        # The moment at which the bucket would be full again tells how many are in it.
        full = max(self._free_at, now) + tokens / self.per_second
        self._free_at = full
        return max(0.0, full - now - self.bucket / self.per_second)
