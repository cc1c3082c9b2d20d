"""The measurements of a run: latencies, counts over time, and the use of each quota."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

_SMALLEST, _RATIO = 1e-3, 1.02  # seconds of the first class of latencies, and from one class to the next


class Histogram:
    """Counts of latencies in classes that are 2 % wide, so that a percentile is exact within 1 %."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._classes: defaultdict[int, int] = defaultdict(int)

    def add(self, seconds: float, count: int) -> None:
        """Count a latency of several objects."""
        number = int(math.log(seconds / _SMALLEST) / math.log(_RATIO)) if seconds > _SMALLEST else 0
        self._classes[number] += count
        self.count += count
        self.total += seconds * count

    def percentile(self, share: float) -> float | None:
        """Return the latency that a share of the objects does not exceed; None if there are none."""
        if not self.count:
            return None
        rest = share * self.count
        for number in sorted(self._classes):
            rest -= self._classes[number]
            if rest <= 0:
                break
        return float(_SMALLEST * _RATIO ** (number + 0.5))

    @property
    def mean(self) -> float | None:
        """The mean; None if there are none."""
        return self.total / self.count if self.count else None


class Timeline:
    """Sums in intervals of equal length: of what happens, or of what comes and goes."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._sums: defaultdict[int, float] = defaultdict(float)

    def add(self, time: float, amount: float) -> None:
        """Add an amount at a moment. The moments may come in any order."""
        self._sums[int(time / self.interval)] += amount

    def rates(self, until: float) -> list[float]:
        """Return the amounts a second of all intervals."""
        return [self._sums.get(number, 0.0) / self.interval for number in range(self._last(until) + 1)]

    def levels(self, until: float) -> list[float]:
        """Return the sum up to the end of each interval: how many came and did not go."""
        level, levels = 0.0, []
        for number in range(self._last(until) + 1):
            level += self._sums.get(number, 0.0)
            levels.append(level)
        return levels

    def counts(self) -> dict[int, float]:
        """Return the sums by the number of the interval."""
        return dict(self._sums)

    def _last(self, until: float) -> int:
        return max(0, math.ceil(until / self.interval) - 1)


@dataclass
class Use:
    """The use of a quota: the most at a time, its sum over time, and when it held something up for the first time."""

    limit: float
    peak: float = 0.0
    area: float = 0.0
    reached_at: float | None = None
    _level: float = 0.0
    _since: float = 0.0

    def hold(self, now: float) -> None:
        """Note that the quota held something up."""
        if self.reached_at is None:
            self.reached_at = now

    def see(self, amount: float, now: float, *, warm: float, until: float) -> None:
        """Note how much is used from now on; it counts between two moments."""
        self.area += self._level * max(0.0, min(now, until) - max(self._since, warm))
        self._level, self._since = amount, now
        if now >= warm:
            self.peak = max(self.peak, amount)
