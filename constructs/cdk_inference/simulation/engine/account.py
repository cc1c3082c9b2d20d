"""The account of a simulation: what it uses of each quota, and what each quota holds up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.simulation.engine.clock import RateLimit
from cdk_inference.simulation.engine.measurements import Timeline, Use
from cdk_inference.simulation.quotas import DOCUMENTED, QuotaUse

if TYPE_CHECKING:
    from cdk_inference.simulation.engine.clock import Clock
    from cdk_inference.simulation.quotas import Quotas

_INTERVAL = 10.0  # seconds over which the use of a rate is averaged
_TABLE_GROWS = 1800.0  # seconds within which a table on demand cannot double twice


class Account:
    """Counts what is used of each quota, and says how long something has to wait for it.

    Parameters
    ----------
    clock
        The clock.
    quotas
        The quotas.
    warm_up, until
        The moments between which a use counts for the mean.
    steady
        Whether the rate of the arrivals is constant.
    """

    def __init__(self, clock: Clock, quotas: Quotas, *, warm_up: float, until: float, steady: bool) -> None:
        self.quotas = quotas
        self._until, self._steady = until, steady
        self._clock = clock
        self._warm_up = warm_up
        self._levels: dict[str, Use] = {}
        self._rates: dict[tuple[str, str], _Rate] = {}
        self._table: list[tuple[float, float]] = [(0.0, min(quotas.table_writes_at_first, quotas.table_writes))]

    def level(self, field: str, amount: float) -> None:
        """Note how much of a quota is in use."""
        use = self._levels.get(field)
        if use is None:
            use = self._levels[field] = Use(getattr(self.quotas, field))
        use.see(amount, self._clock.now, warm=self._warm_up, until=self._until)

    def full(self, field: str) -> None:
        """Note that a quota is used up."""
        if field not in self._levels:
            self.level(field, 0)
        self._levels[field].hold(self._clock.now)

    def full_rate(self, field: str, of: str) -> None:
        """Note that a rate of a resource is used up."""
        self._rates[field, of].use.hold(self._clock.now)

    def take(
        self,
        field: str,
        amount: float,
        *,
        of: str = "",
        at: float | None = None,
        limit: float | None = None,
        bucket: float | None = None,
        per: float = 1,
    ) -> float:
        """Use a rate, and return the seconds until AWS would let it happen.

        Parameters
        ----------
        field
            The field of `Quotas`.
        amount
            How much.
        of
            The resource, if each has the quota for itself.
        at
            The moment, if it is not now.
        limit, bucket
            The limit and the size of the bucket, if they are not the field and the tokens of a second.
        per
            Seconds that the limit is for.
        """
        rate = self._rates.get((field, of))
        if rate is None:
            most = getattr(self.quotas, field) if limit is None else limit
            rate = _Rate(RateLimit(most / per, bucket), Use(most), Timeline(_INTERVAL), per)
            self._rates[field, of] = rate
        now = self._clock.now if at is None else at
        delay = rate.bucket.delay(now, amount)
        rate.timeline.add(now + delay, amount)
        if delay > 0:
            rate.use.hold(now)
        return delay

    def write(self, units: float) -> float:
        """Write to the table, and return the seconds until it takes the writes.

        A table on demand takes twice its former peak at once, and needs 30 minutes until that is its new peak.
        """
        since, limit = self._table[-1]
        rate = self._rates.get(("table_writes_at_first", ""))
        if rate is not None and self._clock.now - since >= _TABLE_GROWS:
            peak = max(rate.timeline.counts().values()) / _INTERVAL
            limit = min(max(limit, 2 * peak), self.quotas.table_writes)
            rate.bucket.per_second = rate.bucket.bucket = limit
            self._table.append((self._clock.now, limit))
        delay = self.take("table_writes_at_first", units, limit=limit)
        self.take("table_writes", units)
        return delay

    def uses(self) -> list[QuotaUse]:
        """Return the use of all quotas that something was used of, the fullest first."""
        found = []
        for field, use in self._levels.items():
            use.see(0, max(self._clock.now, self._until), warm=self._warm_up, until=self._until)
            typical = use.area / (self._until - self._warm_up) if self._steady else use.peak
            found.append(QuotaUse(DOCUMENTED[field], use.limit, use.peak, typical, use.reached_at))
        by_field: dict[str, list[QuotaUse]] = {}
        for (field, _), rate in self._rates.items():
            limit, peak = self._fullest(field, rate)
            typical = self._mean(rate) if self._steady else peak
            use_of_one = QuotaUse(DOCUMENTED[field], limit, peak, typical, rate.use.reached_at)
            by_field.setdefault(field, []).append(use_of_one)
        found += [max(uses, key=lambda use: use.share) for uses in by_field.values()]
        return sorted(found, key=lambda use: (-use.share, use.quota.field))

    def _mean(self, rate: _Rate) -> float:
        first, last = (math.ceil(at / _INTERVAL) for at in (self._warm_up, self._until))
        counted = [amount for number, amount in rate.timeline.counts().items() if first <= number < last]
        return sum(counted) / (max(1, last - first) * _INTERVAL) * rate.per

    def _fullest(self, field: str, rate: _Rate) -> tuple[float, float]:
        """Return the limit of a rate and its highest use, of the interval in which the share was the highest."""
        warm = [
            (number * _INTERVAL, amount / _INTERVAL * rate.per)
            for number, amount in rate.timeline.counts().items()
            if number * _INTERVAL >= self._warm_up
        ]
        limits = self._table if field == "table_writes_at_first" else [(0.0, rate.use.limit)]
        fullest = (limits[0][1], 0.0)
        for time, amount in warm:
            limit = next(limit for since, limit in reversed(limits) if since <= time or since == 0)
            if amount / limit > fullest[1] / fullest[0]:
                fullest = (limit, amount)
        return fullest


@dataclass
class _Rate:
    bucket: RateLimit
    use: Use
    timeline: Timeline
    per: float
