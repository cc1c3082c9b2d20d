"""Lambda's environments: warm ones are used again, new ones start, and all of an account are limited together."""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from cdk_inference.simulation.assumptions import Assumptions
    from cdk_inference.simulation.engine.account import Account
    from cdk_inference.simulation.engine.clock import Clock
    from cdk_inference.simulation.engine.measurements import Timeline

_SCALING_SECONDS = 10  # that the quota of new environments is counted in


class Environments:
    """Runs invocations. One that finds no concurrency left waits in line, since its caller tries again.

    Parameters
    ----------
    clock, account
        The clock and the account.
    assumptions
        How long a cold start takes, how long an environment is kept, and how many invocations die.
    random
        The source of randomness.
    alive
        Gets how many environments there are.
    """

    def __init__(
        self, clock: Clock, account: Account, assumptions: Assumptions, random: Random, alive: Timeline
    ) -> None:
        self.cold_starts = 0
        self._clock, self._account, self._assumptions, self._random = clock, account, assumptions, random
        self._alive = alive
        self._busy = 0
        self._idle: defaultdict[str, list[float]] = defaultdict(list)  # since when, the longest first
        self._line: deque[Callable[[], None]] = deque()

    def invoke(self, function: str, seconds: float, deadline: float, done: Callable[[bool], None]) -> None:
        """Run a function.

        Parameters
        ----------
        function
            Its name.
        seconds
            How long it takes, without a cold start.
        deadline
            When its caller gives up.
        done
            Is called with whether it returned.
        """
        quotas = self._account.quotas
        rate = quotas.concurrent_executions * quotas.invocations_per_environment
        delay = self._account.take("invocations_per_environment", 1, of=function, limit=rate)
        begin = partial(self._begin, function, seconds, deadline, done)
        if delay > 0:
            self._clock.after(delay, begin)
        else:
            begin()

    def _begin(self, function: str, seconds: float, deadline: float, done: Callable[[bool], None]) -> None:
        if self._busy >= self._account.quotas.concurrent_executions:
            self._account.full("concurrent_executions")
            self._line.append(partial(self._begin, function, seconds, deadline, done))
            return
        if self._clock.now > deadline:
            done(False)
            return
        self._busy += 1
        self._account.level("concurrent_executions", self._busy)
        start = 0.0
        if not self._take_idle(function):
            bucket = self._account.quotas.new_environments
            start = self._account.take("new_environments", 1, of=function, bucket=bucket, per=_SCALING_SECONDS)
            start += self._assumptions.draw(self._random, self._assumptions.cold_start_ms / 1000)
            self.cold_starts += 1
            self._alive.add(self._clock.now, 1)
        died = self._random.random() < self._assumptions.failures
        self._clock.after(start + seconds, partial(self._end, function, done, died=died, deadline=deadline))

    def _end(self, function: str, done: Callable[[bool], None], *, died: bool, deadline: float) -> None:
        self._busy -= 1
        self._account.level("concurrent_executions", self._busy)
        if died:
            self._alive.add(self._clock.now, -1)
        else:
            self._idle[function].append(self._clock.now)
        self._next_in_line()
        done(not died and self._clock.now <= deadline)

    def _next_in_line(self) -> None:
        while self._line and self._busy < self._account.quotas.concurrent_executions:
            self._line.popleft()()

    def _take_idle(self, function: str) -> bool:
        """Take the environment that was used last, and forget those that Lambda has ended meanwhile."""
        idle, kept = self._idle[function], self._assumptions.idle_seconds
        if idle and self._clock.now - idle[-1] > kept:
            self._forget(idle)
        if idle:
            idle.pop()
            return True
        return False

    def forget_idle(self) -> None:
        """Count when those that are idle at the end of the run would be gone."""
        for idle in self._idle.values():
            self._forget(idle)

    def _forget(self, idle: list[float]) -> None:
        for since in idle:
            self._alive.add(since + self._assumptions.idle_seconds, -1)
        idle.clear()
