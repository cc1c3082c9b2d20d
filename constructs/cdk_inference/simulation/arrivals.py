"""When objects arrive: constantly, in bursts, or along the curve of a day. Always at random, around that rate."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero, check_at_least, check_choice, check_share
from cdk_inference.costs.options import Traffic
from cdk_inference.costs.quantities import HOUR, MONTH_HOURS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_WHOLE = 1_000  # from here on, digits after the point say nothing
_DAY = 24 * HOUR
_STEPS = 288  # of a day's curve, 5 minutes each


@check_props
@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Objects that arrive at random, as a Poisson process whose rate follows a curve.

    Parameters
    ----------
    per_second
        Objects a second. In bursts it is the rate within a burst, and on a day's curve the mean.
    seconds
        For how long objects arrive.
    shape
        ``"constant"``, ``"bursts"`` or ``"day"``.
    burst_seconds, pause_seconds
        The length of a burst, and of the pause after it. Only bursts have them.
    swing
        By which share the rate of a day rises above its mean at noon, and falls below it at midnight. The default of
        0.8 makes noon 9 times as busy as midnight. Only a day has it.

    Raises
    ------
    PropError
        If a value is out of range.
    """

    per_second: float
    seconds: float = 900
    shape: str = "constant"
    burst_seconds: float = 60
    pause_seconds: float = 240
    swing: float = 0.8

    def __post_init__(self) -> None:
        check_above_zero(per_second=self.per_second, seconds=self.seconds, burst_seconds=self.burst_seconds)
        check_at_least(0, pause_seconds=self.pause_seconds)
        check_choice(("constant", "bursts", "day"), shape=self.shape)
        check_share(swing=self.swing)

    @classmethod
    def constant(cls, per_second: float, *, seconds: float = 900) -> Arrivals:
        """Return arrivals whose rate does not change."""
        return cls(per_second=per_second, seconds=seconds)

    @classmethod
    def bursts(
        cls, per_second: float, *, burst_seconds: float, pause_seconds: float, seconds: float = 3600
    ) -> Arrivals:
        """Return bursts with pauses between them."""
        return cls(
            per_second=per_second,
            seconds=seconds,
            shape="bursts",
            burst_seconds=burst_seconds,
            pause_seconds=pause_seconds,
        )

    @classmethod
    def day(cls, objects: float, *, swing: float = 0.8) -> Arrivals:
        """Return the arrivals of a day, from midnight to midnight, with so many objects."""
        return cls(per_second=objects / _DAY, seconds=_DAY, shape="day", swing=swing)

    @property
    def mean_per_second(self) -> float:
        """Objects a second, pauses included."""
        if self.shape != "bursts":
            return self.per_second
        return self.per_second * self.burst_seconds / (self.burst_seconds + self.pause_seconds)

    @property
    def traffic(self) -> Traffic:
        """A month of such arrivals, as the cost estimates take it."""
        items = self.mean_per_second * MONTH_HOURS * HOUR
        if self.shape != "bursts":
            return Traffic(items_per_month=items)
        period = self.burst_seconds + self.pause_seconds
        return Traffic(
            items_per_month=items,
            bursts_per_month=max(1.0, MONTH_HOURS * HOUR / period),
            burst_hours=min(self.burst_seconds / HOUR, MONTH_HOURS),
        )

    def rate(self, time: float) -> float:
        """Return objects a second at a moment, in seconds from the start."""
        if self.shape == "bursts":
            return self.per_second if time % (self.burst_seconds + self.pause_seconds) < self.burst_seconds else 0.0
        if self.shape == "day":
            return self.per_second * (1 - self.swing * math.cos(2 * math.pi * time / _DAY))
        return self.per_second

    def describe(self) -> str:
        """Say it in words."""
        rate = f"{self.per_second:,.0f}" if self.per_second >= _WHOLE else f"{self.per_second:.4g}"
        if self.shape == "bursts":
            return (
                f"{rate} objects a second in bursts of {self.burst_seconds:,.0f} s, {self.pause_seconds:,.0f} s apart"
            )
        if self.shape == "day":
            return f"{self.per_second * _DAY:,.0f} objects a day, {1 + self.swing:.1f} times the mean rate at noon"
        return f"{rate} objects a second"

    def lots(self, random: Random, *, most: int, longest: float) -> Iterator[tuple[float, float, int]]:
        """Yield objects that arrive shortly after each other together: first moment, last moment, and how many.

        The moment of the nth arrival of a Poisson process is a sum of n exponential times, which is a gamma
        distribution. So a lot needs two numbers, however many objects are in it. A curve only changes how fast that
        time passes.

        Parameters
        ----------
        random
            The source of randomness.
        most
            Objects of a lot at most.
        longest
            Seconds that a lot may take on average; 0 for lots of one object.
        """
        curve = _Curve(self)
        passed = time = 0.0
        while time < self.seconds:
            count = max(1, min(most, int(self.rate(time) * longest)))
            first = passed + random.expovariate(1.0)
            passed = first + (random.gammavariate(count - 1, 1.0) if count > 1 else 0.0)
            begins, time = curve.time(first), curve.time(passed)
            if time < self.seconds:
                yield begins, time, count


class _Curve:
    """Says when so many objects have arrived on average: the inverse of the integral of the rate."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._expected: list[float] = []
        if arrivals.shape == "day":
            step = _DAY / _STEPS
            self._expected = [0.0]
            for number in range(_STEPS):
                middle = arrivals.rate((number + 0.5) * step)
                self._expected.append(self._expected[-1] + middle * step)

    def time(self, expected: float) -> float:
        arrivals = self._arrivals
        if arrivals.shape == "bursts":
            of_a_burst = arrivals.per_second * arrivals.burst_seconds
            full, rest = divmod(expected, of_a_burst)
            return full * (arrivals.burst_seconds + arrivals.pause_seconds) + rest / arrivals.per_second
        if arrivals.shape == "day":
            full, rest = divmod(expected, self._expected[-1])
            number = min(bisect.bisect_right(self._expected, rest), _STEPS) - 1
            low, high = self._expected[number], self._expected[number + 1]
            share = (rest - low) / (high - low) if high > low else 0.0
            return full * _DAY + (number + share) * _DAY / _STEPS
        return expected / arrivals.per_second
