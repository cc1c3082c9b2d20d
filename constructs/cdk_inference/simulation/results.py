"""The results of a simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.common.figures import figure, percent

if TYPE_CHECKING:
    from cdk_inference.costs.estimates import Estimate
    from cdk_inference.simulation.arrivals import Arrivals
    from cdk_inference.simulation.quotas import QuotaUse

_WORTH_A_LINE = 0.01  # share of a quota
_SLOWER = 0.05  # share of the rate by which rows may come slower than objects
_EXACT = 0.05  # of a step, which is rounded down
_DEVIATIONS = 4  # of a Poisson process


@dataclass(frozen=True)
class Latencies:
    """Seconds from an object's upload to its row; those of unfinished objects are their ages, and so too small.

    Parameters
    ----------
    mean, p50, p95, p99
        The mean and percentiles; None if no object came after the warm-up.
    """

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class Series:
    """Values at the end of intervals of equal length.

    Parameters
    ----------
    interval
        Seconds of an interval.
    values
        The values.
    """

    interval: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class SimulationResult:
    """The fate of the objects, the time that it took, and the use of the quotas.

    Parameters
    ----------
    arrivals
        When the objects came.
    arrived, finished, dead, unfinished
        Objects: all, those with rows, those in a dead-letter queue, and the rest at the end of the run.
    batches, cold_starts
        Batches that were read, and environments that were started.
    mean_batch
        Objects of a batch on average.
    ended_at
        When the last of them got its row, or was dead, in seconds from the start.
    throughput
        Objects a second that got rows, between the warm-up and the last arrival.
    latency
        The latencies of the objects that came after the warm-up.
    peak_backlog
        Most messages that waited in the queue.
    peak_environments, peak_gpus
        Most environments and GPUs that there were.
    backlog, in_system, environments, gpus
        Messages that waited, objects on their way, environments and GPUs over time.
    quotas
        The use of each quota, the fullest first.
    estimate
        The costs of a month of such arrivals; None if the instance has no price.
    """

    arrivals: Arrivals
    arrived: int
    finished: int
    dead: int
    unfinished: int
    batches: int
    cold_starts: int
    mean_batch: float
    ended_at: float
    throughput: float
    latency: Latencies
    peak_backlog: float
    peak_environments: float
    peak_gpus: float
    backlog: Series = field(repr=False)
    in_system: Series = field(repr=False)
    environments: Series = field(repr=False)
    gpus: Series = field(repr=False)
    quotas: tuple[QuotaUse, ...] = field(repr=False)
    estimate: Estimate | None = field(repr=False)

    @property
    def held_up_by(self) -> tuple[QuotaUse, ...]:
        """The quotas that held something up, the first one first."""
        reached = [(use.reached_at, use) for use in self.quotas if use.reached_at is not None]
        return tuple(use for _, use in sorted(reached, key=lambda pair: (pair[0], pair[1].quota.field)))

    @property
    def breaks_first(self) -> QuotaUse | None:
        """The quota that held something up first; otherwise, the one that does so first as the rate grows.

        It is None if nothing was used.
        """
        fullest = max(self.quotas, key=lambda use: use.typical_share, default=None)
        return next(iter(self.held_up_by), fullest)

    @property
    def breaks_at(self) -> float | None:
        """Objects a second at which that is, if its use grows as the rate does; None if nothing was used.

        Once a quota has held something up, it is the rate that the pipeline reached, or that of the bursts or the day.
        """
        first = self.breaks_first
        if first is None or not first.typical:
            return None
        if first.reached_at is not None:
            reached = self.throughput if self.arrivals.shape == "constant" else self.arrivals.per_second
            return min(self.arrivals.per_second, reached)
        return self.arrivals.per_second / first.typical_share

    @property
    def keeps_up(self) -> bool:
        """Whether each object gets its row, and rows come as fast as objects do if the rate is constant."""
        if self.dead or self.unfinished:
            return False
        chance = max(_SLOWER, _DEVIATIONS / math.sqrt(max(self.arrived, 1)))  # few objects come at uneven times
        return self.arrivals.shape != "constant" or self.throughput >= (1 - chance) * self.arrivals.per_second

    def advice(self, per_second: float) -> str:
        """Say what helps against what breaks first, and how much of it a rate needs.

        Parameters
        ----------
        per_second
            Objects a second that are wanted.
        """
        first, at = self.breaks_first, self.breaks_at
        if first is None or at is None:
            return "nothing is to be done"
        if per_second <= at:
            return first.quota.advice
        return f"{first.quota.advice}: {_rounded_up(first.limit * per_second / at)} for this rate"

    def explain(self, limit: SimulationResult | None = None) -> str:
        """Return the figures as text.

        Parameters
        ----------
        limit
            A run that says what breaks first, see `Sweep.limit`. Default: this one.
        """
        limit = limit or self
        latency, first, estimate = self.latency, limit.breaks_first, self.estimate
        rows = f"{figure(self.throughput)} of {figure(self.arrivals.per_second)} objects a second get rows"
        lines = [
            f"{self.arrivals.describe()}, for {figure(self.arrivals.seconds)} s",
            f"  keeps up      {'yes' if self.keeps_up else f'no: {rows}'}",
            f"  objects       {self.arrived:,}: {self.finished:,} with rows, {self.dead:,} dead, "
            f"{self.unfinished:,} not finished",
            f"  throughput    {figure(self.throughput)} rows a second, {figure(self.mean_batch)} objects in a batch",
            f"  latency       p50 {seconds(latency.p50)}, p95 {seconds(latency.p95)}, p99 {seconds(latency.p99)}",
            f"  backlog       {self.peak_backlog:,.0f} messages at most",
            f"  environments  {self.peak_environments:,.0f} at most, {self.cold_starts:,} cold starts",
        ]
        if self.peak_gpus:
            lines.append(f"  GPUs          {self.peak_gpus:,.0f} at most")
        if estimate is not None and estimate.usd_per_million is not None:
            lines.append(
                f"  costs         {estimate.usd_per_month:,.2f} USD a month, {estimate.usd_per_million:,.2f} for a "
                "million objects"
            )
        if first is not None and limit.breaks_at is not None:
            used = f"{figure(first.typical)} of {first.limit:,.0f} {first.quota.unit}"
            rate = "" if limit is self else f" at {figure(limit.arrivals.per_second)} objects a second"
            lines += [
                f"  breaks first  at about {figure(limit.breaks_at)} objects a second: {first.quota.title}",
                f"                ({used}{rate})",
                f"  advice        {limit.advice(self.arrivals.per_second)}",
            ]
        lines += [
            f"  in use        {percent(use.share)} of {use.limit:,.0f} {use.quota.unit}: {use.quota.title}"
            for use in self.quotas
            if use.share >= _WORTH_A_LINE
        ]
        lines += [
            f"  held up by    {use.quota.title}, after {figure(use.reached_at or 0)} s" for use in self.held_up_by
        ]
        return "\n".join(lines)


def _rounded_up(value: float) -> str:
    """Return a number of two digits and zeros: the rates of a run are not more exact."""
    step = 10.0 ** max(0, math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - _EXACT) * step:,.0f}"


def seconds(value: float | None) -> str:
    """Return a time as ``"1.25 s"``."""
    return "not known" if value is None else f"{figure(value)} s"
