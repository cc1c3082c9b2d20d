"""The results of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.common.figures import figure, percent

if TYPE_CHECKING:
    from cdk_inference.costs.estimates import Estimate
    from cdk_inference.simulation.arrivals import Arrivals
    from cdk_inference.simulation.quotas import QuotaUse

_WORTH_A_LINE = 0.01  # share of a quota


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

    def explain(self) -> str:
        """Return the figures as text."""
        latency, first, estimate = self.latency, self.breaks_first, self.estimate
        lines = [
            f"{self.arrivals.describe()}, for {figure(self.arrivals.seconds)} s",
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
        if first is not None and self.breaks_at is not None:
            lines.append(
                f"  breaks first  {first.quota.title}: {figure(first.typical)} of "
                f"{first.limit:,.0f} {first.quota.unit}, so at about {figure(self.breaks_at)} objects a second"
            )
            lines.append(f"  advice        {first.quota.advice}")
        lines += [
            f"  in use        {percent(use.share)} of {use.limit:,.0f} {use.quota.unit}: {use.quota.title}"
            for use in self.quotas
            if use.share >= _WORTH_A_LINE
        ]
        lines += [
            f"  held up by    {use.quota.title}, after {figure(use.reached_at or 0)} s" for use in self.held_up_by
        ]
        return "\n".join(lines)


def seconds(value: float | None) -> str:
    """Return a time as ``"1.25 s"``."""
    return "not known" if value is None else f"{figure(value)} s"
