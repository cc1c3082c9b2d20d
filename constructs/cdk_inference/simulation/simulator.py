"""Runs a simulation of a pipeline, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.common.props.validation import check_at_least
from cdk_inference.costs.estimates import Estimate, estimate
from cdk_inference.costs.options import Option, PipelineShape
from cdk_inference.costs.prices import Prices
from cdk_inference.errors import PropError
from cdk_inference.simulation.assumptions import Assumptions
from cdk_inference.simulation.engine.account import Account
from cdk_inference.simulation.engine.batches import Lot
from cdk_inference.simulation.engine.clock import Clock
from cdk_inference.simulation.engine.environments import Environments
from cdk_inference.simulation.engine.gpus import Gpus
from cdk_inference.simulation.engine.measurements import Histogram, Timeline
from cdk_inference.simulation.engine.pipe import Pipe, Reader
from cdk_inference.simulation.engine.plan import Plan
from cdk_inference.simulation.engine.workflow import Workflow
from cdk_inference.simulation.quotas import Quotas
from cdk_inference.simulation.results import Latencies, Series, SimulationResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.simulation.arrivals import Arrivals

_POINTS = 200  # of a series
_LOTS = 4  # that a full batch has at least, and the window of a batch


@check_arguments
def simulate(
    option: Option,
    arrivals: Arrivals,
    *,
    shape: PipelineShape | None = None,
    quotas: Quotas | None = None,
    assumptions: Assumptions | None = None,
    prices: Prices | None = None,
    warm_up: float = 120,
    drain: float = 3600,
    seed: int = 0,
) -> SimulationResult:
    """Simulate a pipeline: what becomes of its objects, how long it takes, and what breaks first.

    The same arguments give the same result, on any machine.

    Parameters
    ----------
    option
        The models, as the cost estimates take them.
    arrivals
        When objects arrive.
    shape
        The shape of the pipeline. Default: that of the cost estimates.
    quotas
        The quotas of the account. Default: those that AWS documents.
    assumptions
        The other figures. Default: those of `Assumptions`.
    prices
        Default: list prices of us-east-1.
    warm_up
        Seconds from the start whose latencies and uses do not count: the first environments start in them. A quota that
        holds something up is noted from the start.
    drain
        Seconds that the run goes on after the last arrival, at most.
    seed
        The seed of the source of randomness.

    Raises
    ------
    PropError
        If a value is out of range, or the shape is fused and the option cannot be.
    """
    check_at_least(0, warm_up=warm_up, drain=drain)
    if warm_up >= arrivals.seconds:
        raise PropError(
            f"warm_up must be shorter than the {arrivals.seconds:g} s of the arrivals, got {warm_up:g}; shorten it"
        )
    shape = shape or PipelineShape()
    run = _Run(option, arrivals, shape, quotas or Quotas(), assumptions or Assumptions(), warm_up, seed)
    run.run(arrivals.seconds + drain)
    return run.result(prices or Prices())


class _Run:
    """One run: the parts, and what became of the objects."""

    def __init__(
        self,
        option: Option,
        arrivals: Arrivals,
        shape: PipelineShape,
        quotas: Quotas,
        assumptions: Assumptions,
        warm_up: float,
        seed: int,
    ) -> None:
        self._option, self._arrivals, self._shape, self._assumptions = option, arrivals, shape, assumptions
        self._warm_up = warm_up
        self._random = Random(seed)  # noqa: S311 - no secret
        self._clock = Clock()
        self._account = Account(
            self._clock, quotas, warm_up=warm_up, until=arrivals.seconds, steady=arrivals.shape == "constant"
        )
        interval = arrivals.seconds / _POINTS
        self._queued, self._in_system, self._alive, self._on_gpus = (Timeline(interval) for _ in range(4))
        self._waits = Histogram()
        self._ended_at = 0.0
        self._ages: dict[float, int] = {}  # objects that are not finished, by the moment of their arrival
        self._arrived = self._finished = self._dead = self._in_time = 0
        plan = Plan(option, shape)
        self._environments = Environments(self._clock, self._account, assumptions, self._random, self._alive)
        workflow = Workflow(
            self._clock,
            self._account,
            assumptions,
            self._random,
            plan=plan,
            direct=shape.direct,
            environments=self._environments,
            gpus={name: Gpus(self._clock, self._account, gpu, self._on_gpus) for name, gpu in plan.gpus.items()},
            ended=self._ended,
        )
        self._pipe = Pipe(
            self._clock,
            self._account,
            self._lots(),
            reader=Reader.of(self._account, direct=shape.direct),
            batch_size=shape.batch_size,
            window=assumptions.max_batching_window,
            queued=self._queued,
            start=lambda batch: workflow.start(self._pipe, batch),
        )

    def _lots(self) -> Iterator[Lot]:
        """Yield the objects as they become visible in the queue."""
        most = max(1, self._shape.batch_size // _LOTS)
        longest = self._assumptions.max_batching_window / _LOTS
        # Another source for arrivals, so that the same objects come whatever becomes of them.
        random = Random(self._random.random())  # noqa: S311 - no secret
        for first, last, count in self._arrivals.lots(random, most=most, longest=longest):
            delay = 0.0 if self._shape.direct else self._account.take("eventbridge_invocations", count, at=last)
            arrived = (first + last) / 2
            self._arrived += count
            self._in_system.add(arrived, count)
            self._ages[arrived] = self._ages.get(arrived, 0) + count
            yield Lot(arrived, last + delay + self._assumptions.event_ms / 1000, count)

    def _ended(self, lot: Lot, succeeded: bool) -> None:
        now = self._ended_at = self._clock.now
        self._in_system.add(now, -lot.count)
        left = self._ages[lot.arrived] - lot.count
        if left:
            self._ages[lot.arrived] = left
        else:
            del self._ages[lot.arrived]
        if not succeeded:
            self._dead += lot.count
            return
        self._finished += lot.count
        if self._warm_up <= now < self._arrivals.seconds:
            self._in_time += lot.count
        if lot.arrived >= self._warm_up:
            self._waits.add(now - lot.arrived, lot.count)

    def run(self, until: float) -> None:
        self._clock.at(0, self._pipe.gather)
        self._clock.run(until)
        self._pipe.receive_rest(until)
        self._environments.forget_idle()
        for arrived, count in self._ages.items():
            if arrived >= self._warm_up:
                self._waits.add(until - arrived, count)

    def result(self, prices: Prices) -> SimulationResult:
        seconds = self._arrivals.seconds
        batches = self._pipe.batches
        mean_batch = self._handled() / batches if batches else 0.0
        levels = [self._series(timeline) for timeline in (self._queued, self._in_system, self._alive, self._on_gpus)]
        backlog, in_system, environments, gpus = levels
        waits = self._waits
        return SimulationResult(
            arrivals=self._arrivals,
            arrived=self._arrived,
            finished=self._finished,
            dead=self._dead,
            unfinished=sum(self._ages.values()),
            batches=batches,
            cold_starts=self._environments.cold_starts,
            mean_batch=mean_batch,
            ended_at=self._ended_at,
            throughput=self._in_time / (seconds - self._warm_up),
            latency=Latencies(waits.mean, waits.percentile(0.5), waits.percentile(0.95), waits.percentile(0.99)),
            peak_backlog=max(backlog.values),
            peak_environments=max(environments.values),
            peak_gpus=max(gpus.values),
            backlog=backlog,
            in_system=in_system,
            environments=environments,
            gpus=gpus,
            quotas=tuple(self._account.uses()),
            estimate=self._estimate(mean_batch, prices),
        )

    def _handled(self) -> int:
        return self._finished + self._dead

    def _series(self, timeline: Timeline) -> Series:
        return Series(timeline.interval, tuple(timeline.levels(self._arrivals.seconds)))

    def _estimate(self, mean_batch: float, prices: Prices) -> Estimate | None:
        """Estimate a month, with batches as full as they were."""
        traffic = self._arrivals.traffic
        if mean_batch:
            fill = min(1.0, mean_batch / self._shape.batch_size)
            traffic = replace(traffic, batch_fill=fill)
        try:
            return estimate(self._option, traffic, shape=self._shape, prices=prices)
        except PropError:  # no price of such an instance
            return None
