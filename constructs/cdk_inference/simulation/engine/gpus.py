"""GPUs from zero: the first batch waits for one to start, and the last one is followed by an idle time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.costs.options import GpuOption
    from cdk_inference.simulation.engine.account import Account
    from cdk_inference.simulation.engine.clock import Clock
    from cdk_inference.simulation.engine.measurements import Timeline


@dataclass(frozen=True, slots=True)
class _Waiting:
    seconds: float
    deadline: float
    done: Callable[[bool], None]


class Gpus:
    """GPUs of one model. Each works on a batch at a time.

    Another one starts if what waits would keep those that there are busy for longer than a start takes. That is an
    assumption, and so is that batches are served in line: a workflow tries again up to a minute later.

    Parameters
    ----------
    clock, account
        The clock and the account, which has as many GPUs at most.
    option
        Has the times of a start and of idling, and how many are always on.
    alive
        Gets how many there are.
    """

    def __init__(self, clock: Clock, account: Account, option: GpuOption, alive: Timeline) -> None:
        self._clock, self._account, self._option, self._alive = clock, account, option, alive
        self._most = max(account.quotas.gpus, option.always_on)
        self._line: deque[_Waiting] = deque()
        self._work = 0.0  # seconds of the batches in line
        self._running = option.always_on
        self._starting = 0
        self._idle = [0.0] * option.always_on  # since when, the longest first
        self._alive.add(0, self._running)

    def score(self, seconds: float, deadline: float, done: Callable[[bool], None]) -> None:
        """Score a batch, and call back with whether there was a GPU in time."""
        # Seconds of work a second are the GPUs that it takes.
        self._account.take("gpus", seconds, of=self._option.name, limit=self._most, bucket=math.inf)
        self._line.append(_Waiting(seconds, deadline, done))
        self._work += seconds
        self._serve()
        if self._line:
            self._scale()

    def _scale(self) -> None:
        there = self._running + self._starting
        if there and self._work / there <= self._option.start_seconds:
            return
        if there >= self._most:
            self._account.full_rate("gpus", self._option.name)
            return
        self._starting += 1
        self._clock.after(self._option.start_seconds, self._started)

    def _started(self) -> None:
        self._starting -= 1
        self._running += 1
        self._alive.add(self._clock.now, 1)
        self._rest()

    def _serve(self) -> None:
        while self._line and self._idle:
            waiting = self._line.popleft()
            self._work -= waiting.seconds
            if self._clock.now > waiting.deadline:
                waiting.done(False)
                continue
            self._idle.pop()
            self._clock.after(waiting.seconds, partial(self._scored, waiting.done))

    def _scored(self, done: Callable[[bool], None]) -> None:
        self._rest()
        done(True)

    def _rest(self) -> None:
        self._idle.append(self._clock.now)
        self._serve()
        self._clock.after(self._option.idle_seconds, self._stop_idle)

    def _stop_idle(self) -> None:
        while (
            self._idle
            and self._running > self._option.always_on
            and self._clock.now - self._idle[0] >= self._option.idle_seconds
        ):
            self._idle.pop(0)
            self._running -= 1
            self._alive.add(self._clock.now, -1)
