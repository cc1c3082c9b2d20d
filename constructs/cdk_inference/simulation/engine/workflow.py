"""The workflow of a simulation: takes batches through their steps, and gives back what failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cdk_inference.simulation.engine.batches import Batch, Lot, objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from cdk_inference.simulation.assumptions import Assumptions
    from cdk_inference.simulation.engine.account import Account
    from cdk_inference.simulation.engine.clock import Clock
    from cdk_inference.simulation.engine.environments import Environments
    from cdk_inference.simulation.engine.gpus import Gpus
    from cdk_inference.simulation.engine.pipe import Pipe
    from cdk_inference.simulation.engine.plan import Plan, Step, Stop

_INBOX, _WORK = "inbox", "work"


@dataclass(slots=True)
class _Leg:
    """Some objects of a batch on their way; `handed_over` once a GPU's workflow has them, and the queue no longer."""

    batch: Batch
    stops: list[Stop]
    handed_over: bool = False


class Workflow:
    """Takes batches through their steps.

    Parameters
    ----------
    clock, account, assumptions, random
        As elsewhere.
    plan
        The ways of the objects.
    direct
        Whether the function takes the messages itself, without a workflow.
    environments
        Runs the functions.
    gpus
        Run models, by name.
    ended
        Is called with objects that have rows, or that are dead, and with whether they have rows.
    """

    def __init__(
        self,
        clock: Clock,
        account: Account,
        assumptions: Assumptions,
        random: Random,
        *,
        plan: Plan,
        direct: bool,
        environments: Environments,
        gpus: Mapping[str, Gpus],
        ended: Callable[[Lot, bool], None],
    ) -> None:
        self._clock, self._account, self._assumptions, self._random = clock, account, assumptions, random
        self._plan, self._environments, self._gpus, self._ended = plan, environments, gpus, ended
        self._step_seconds = 0.0 if direct else assumptions.step_ms / 1000
        self._pipe: Pipe | None = None

    def start(self, pipe: Pipe, batch: Batch) -> None:
        """Take a batch that a pipe has handed over."""
        self._pipe = pipe
        legs = self._plan.legs(batch.lots, self._random)
        batch.legs = len(legs)
        for stops in legs:
            self._step(_Leg(batch, stops), 0)

    def _step(self, leg: _Leg, number: int) -> None:
        if number == len(leg.stops):
            if not leg.handed_over:
                self._release(leg.batch)
            return
        stop = leg.stops[number]
        if stop.step.gpu is not None and not leg.handed_over:
            self._hand_over(leg, number)
        elif stop.step.gpu is not None:
            self._score(leg, number)
        else:
            self._clock.after(self._step_seconds, partial(self._invoke, leg, number))

    def _invoke(self, leg: _Leg, number: int) -> None:
        stop = leg.stops[number]
        seconds = self._assumptions.draw(self._random, stop.count * stop.step.item_ms / 1000)
        seconds += self._requests(stop)
        # A workflow that waits for a GPU has the time that it needs for what follows.
        deadline = float("inf") if leg.handed_over else leg.batch.received + self._assumptions.workflow_timeout
        self._environments.invoke(stop.step.name, seconds, deadline, partial(self._invoked, leg, number))

    def _requests(self, stop: Stop) -> float:
        """Make the requests of a step, and return the seconds for which quotas hold them up."""
        step, delays = stop.step, [0.0]
        if step.reads:
            limit = self._account.quotas.s3_gets * self._assumptions.prefixes
            delays.append(self._account.take("s3_gets", stop.count, of=_INBOX, limit=limit))
            if self._assumptions.kms_per_object:
                delays.append(self._account.take("kms_operations", stop.count * self._assumptions.kms_per_object))
        delays += self._tensors(step)
        written = objects(stop.ends)
        if step.writes and written:
            delays.append(self._account.write(written * step.writes))
        return max(delays)

    def _tensors(self, step: Step) -> list[float]:
        moved = {"s3_puts": step.puts, "s3_gets": step.gets}
        return [self._account.take(field, count, of=_WORK) for field, count in moved.items() if count]

    def _hand_over(self, leg: _Leg, number: int) -> None:
        """Start the standard workflow that waits for a GPU. The pipe is done with these objects then."""
        step = leg.stops[number].step
        bucket = self._account.quotas.standard_starts_bucket
        delay = max(
            self._account.take("standard_starts", 1, bucket=bucket),
            self._account.take("standard_transitions", step.transitions),
        )
        leg.handed_over = True
        self._clock.after(delay, partial(self._handed_over, leg, number))

    def _handed_over(self, leg: _Leg, number: int) -> None:
        self._delete([lot for stop in leg.stops[number:] for lot in stop.ends])
        self._release(leg.batch)
        self._score(leg, number)

    def _score(self, leg: _Leg, number: int) -> None:
        stop = leg.stops[number]
        self._tensors(stop.step)
        seconds = self._assumptions.draw(self._random, stop.count * stop.step.item_ms / 1000)
        deadline = self._clock.now + self._assumptions.max_wait
        self._gpus[stop.step.name].score(seconds, deadline, partial(self._invoked, leg, number))

    def _invoked(self, leg: _Leg, number: int, succeeded: bool) -> None:
        if not succeeded:
            self._fail(leg, number)
            return
        ends = leg.stops[number].ends
        if not leg.handed_over:
            self._delete(ends)
        for lot in ends:
            self._ended(lot, True)
        self._step(leg, number + 1)

    def _fail(self, leg: _Leg, number: int) -> None:
        """Give objects back to the queue that have no rows, or bury them."""
        lots = [lot for stop in leg.stops[number:] for lot in stop.ends]
        # The messages are gone once a GPU's workflow has the objects.
        tries = 0 if leg.handed_over else self._assumptions.max_receive_count
        again = [lot for lot in lots if lot.receives + 1 < tries]
        dead = [lot for lot in lots if lot.receives + 1 >= tries]
        if again:
            back = [replace(lot, receives=lot.receives + 1) for lot in again]
            shown = leg.batch.received + self._assumptions.visibility_timeout
            back = [replace(lot, visible=max(shown, self._clock.now)) for lot in back]
            self._clock.at(shown, partial(self._put_back, back))
        if not leg.handed_over:
            self._delete(dead)
            self._release(leg.batch)
        for lot in dead:
            self._ended(lot, False)

    def _put_back(self, lots: list[Lot]) -> None:
        assert self._pipe is not None  # noqa: S101 (start has set it)
        self._pipe.put_back(lots)

    def _delete(self, lots: list[Lot] | tuple[Lot, ...]) -> None:
        assert self._pipe is not None  # noqa: S101 (start has set it)
        self._pipe.deleted(objects(lots))

    def _release(self, batch: Batch) -> None:
        assert self._pipe is not None  # noqa: S101 (start has set it)
        batch.legs -= 1
        if not batch.legs:
            self._pipe.ended()
