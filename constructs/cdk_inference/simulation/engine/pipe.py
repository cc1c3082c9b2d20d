"""The queue, and what reads it: an EventBridge pipe, or the event source mapping of a direct pipeline."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.simulation.engine.batches import Batch, Lot, objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.simulation.engine.account import Account
    from cdk_inference.simulation.engine.clock import Clock
    from cdk_inference.simulation.engine.measurements import Timeline

_FORGETS = 60.0  # seconds without a batch after which it begins with few again; an assumption


@dataclass(frozen=True)
class Reader:
    """How many batches are read at the same time.

    Parameters
    ----------
    at_first
        When messages come.
    per_second
        How many more each second while there are further messages.
    quota
        The field of the quota that says how many there are at most.
    most
        That number.
    """

    at_first: float
    per_second: float
    quota: str
    most: float

    @classmethod
    def of(cls, account: Account, *, direct: bool) -> Reader:
        """Return the reader of a direct pipeline, or the pipe of another one."""
        quotas = account.quotas
        if direct:
            return cls(
                quotas.mapping_batches_at_first,
                quotas.mapping_batches_per_minute / 60,
                "mapping_batches",
                quotas.mapping_batches,
            )
        own = quotas.pipe_batches <= quotas.pipe_executions
        return cls(
            quotas.pipe_batches_at_first,
            quotas.pipe_batches_per_minute / 60,
            "pipe_batches" if own else "pipe_executions",
            min(quotas.pipe_batches, quotas.pipe_executions),
        )


class Pipe:
    """Gathers messages into batches, one batch at a time, and hands them over.

    Parameters
    ----------
    clock, account
        The clock and the account.
    arrivals
        The objects, in the order in which they become visible.
    reader
        How many batches there are at the same time.
    batch_size, window
        Objects of a batch at most, and seconds that the first of them waits for others.
    queued
        Gets how many messages wait.
    start
        Is called with each batch.
    """

    def __init__(
        self,
        clock: Clock,
        account: Account,
        arrivals: Iterator[Lot],
        *,
        reader: Reader,
        batch_size: int,
        window: float,
        queued: Timeline,
        start: Callable[[Batch], None],
    ) -> None:
        self.batches = 0
        self._clock, self._account, self._arrivals = clock, account, arrivals
        self._reader, self._batch_size, self._window = reader, batch_size, window
        self._queued, self._start = queued, start
        self._lots: deque[Lot] = deque()
        self._waiting = 0  # objects in these lots
        self._next = next(arrivals, None)
        self._allowed = reader.at_first
        self._running = 0
        self._in_flight = 0
        self._ended = 0.0
        self._gathering = self._growing = False

    def gather(self) -> None:
        """Begin with a batch, if there is a message for it and nobody is on it."""
        if self._gathering:
            return
        first = self._first_visible()
        if first is None:
            return
        if not self._running and first - self._ended > _FORGETS:
            self._allowed = self._reader.at_first
        if self._in_flight + self._batch_size > self._account.quotas.sqs_in_flight:
            self._account.full("sqs_in_flight")
            return  # until some of them are deleted
        if self._running >= self._allowed:
            self._grow(first)
            return
        deadline = first + self._window
        full = first if self._waiting >= self._batch_size else self._receive(deadline)
        self._gathering = True
        self._clock.at(deadline if full is None else full, self._hand_over)

    def deleted(self, count: int) -> None:
        """Take note that messages are gone from the queue."""
        self._in_flight -= count
        self._account.level("sqs_in_flight", self._in_flight)

    def ended(self) -> None:
        """Take note that a batch is done."""
        self._running -= 1
        self._account.level(self._reader.quota, self._running)
        self._ended = self._clock.now
        self.gather()

    def put_back(self, lots: list[Lot]) -> None:
        """Show messages again that were hidden."""
        count = objects(lots)
        self._in_flight -= count
        self._lots.extend(lots)
        self._waiting += count
        self._queued.add(self._clock.now, count)
        self.gather()

    def receive_rest(self, until: float) -> None:
        """Count the messages that became visible up to the end of the run."""
        while self._next is not None and self._next.visible <= until:
            self._pull()

    def _first_visible(self) -> float | None:
        """Return when there is a message, now or later; None if there will be none."""
        if self._lots:
            return max(self._clock.now, self._lots[0].visible)
        return None if self._next is None else max(self._clock.now, self._next.visible)

    def _receive(self, deadline: float) -> float | None:
        """Receive messages up to a moment, and return when there were enough for a batch; None if there were not."""
        while self._next is not None and self._next.visible <= deadline:
            visible = self._next.visible
            self._pull()
            if self._waiting >= self._batch_size:
                return visible
        return None

    def _pull(self) -> None:
        assert self._next is not None  # noqa: S101 (callers look)
        self._lots.append(self._next)
        self._waiting += self._next.count
        self._queued.add(self._next.visible, self._next.count)
        self._next = next(self._arrivals, None)

    def _hand_over(self) -> None:
        self._gathering = False
        taken: list[Lot] = []
        room = self._batch_size
        while room and self._lots and self._lots[0].visible <= self._clock.now:
            lot = self._lots.popleft()
            if lot.count > room:
                lot, rest = lot.split(room)
                self._lots.appendleft(rest)
            taken.append(lot)
            room -= lot.count
        count = objects(taken)
        self._waiting -= count
        self._queued.add(self._clock.now, -count)
        self._in_flight += count
        self._running += 1
        self.batches += 1
        self._account.level(self._reader.quota, self._running)
        self._account.level("sqs_in_flight", self._in_flight)
        self._start(Batch(taken, self._clock.now))
        self.gather()

    def _grow(self, first: float) -> None:
        if self._allowed >= self._reader.most:
            if first <= self._clock.now:
                self._account.full(self._reader.quota)
            return  # until a batch ends
        if not self._growing:
            self._growing = True
            self._clock.at(first + 1 / self._reader.per_second, self._grown)

    def _grown(self) -> None:
        self._growing = False
        self._allowed = min(self._reader.most, self._allowed + 1)
        self.gather()
