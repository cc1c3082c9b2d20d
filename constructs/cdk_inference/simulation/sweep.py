"""Runs a simulation at several rates, up to 100 million objects a day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_arguments
from cdk_inference.costs.quantities import HOUR
from cdk_inference.errors import PropError
from cdk_inference.simulation.arrivals import Arrivals
from cdk_inference.simulation.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.costs.options import Option, PipelineShape
    from cdk_inference.costs.prices import Prices
    from cdk_inference.simulation.assumptions import Assumptions
    from cdk_inference.simulation.quotas import Quotas
    from cdk_inference.simulation.results import SimulationResult

DAY = 24 * HOUR

RATES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 100e6 / DAY)
"""Objects a second, up to 100 million a day."""

_SECONDS, _SLOW_SECONDS, _SLOW = 900.0, 3600.0, 30.0  # at slow rates an hour, so that there are objects to count
_TRIES = 4  # to find a rate that nothing holds up


@dataclass(frozen=True)
class Sweep:
    """The results of one pipeline at several rates.

    Parameters
    ----------
    name
        For people, such as the path of the pipeline.
    option
        The models.
    results
        The results, by rising rate.
    limit
        A run that says what breaks first as the rate grows: the fastest that no quota held up. An overload uses up
        several quotas, of which the first in time need not be the one that breaks at the lowest rate.
    """

    name: str
    option: Option
    results: tuple[SimulationResult, ...]
    limit: SimulationResult

    @property
    def held_up_from(self) -> SimulationResult | None:
        """The first result with a quota that held something up; None if there is none."""
        return next((result for result in self.results if result.held_up_by), None)

    def limit_of(self, result: SimulationResult) -> SimulationResult:
        """Return the run that says what breaks first, for one of the results."""
        return self.limit if result.held_up_by else result


@check_arguments
def sweep(
    option: Option,
    rates: Sequence[float] = RATES,
    *,
    name: str | None = None,
    shape: PipelineShape | None = None,
    quotas: Quotas | None = None,
    assumptions: Assumptions | None = None,
    prices: Prices | None = None,
    seed: int = 0,
) -> Sweep:
    """Simulate constant arrivals at several rates, each for 15 minutes, or for an hour if they are below 30 a second.

    Parameters
    ----------
    option, shape, quotas, assumptions, prices, seed
        As those of `simulate`.
    rates
        Objects a second.
    name
        For people. Default: that of the option.

    Raises
    ------
    PropError
        If there is no rate, or a value is out of range.
    """
    if not rates:
        raise PropError("rates must be at least one, got none; give objects a second")

    def run(rate: float) -> SimulationResult:
        return simulate(
            option,
            Arrivals.constant(rate, seconds=_SECONDS if rate >= _SLOW else _SLOW_SECONDS),
            shape=shape,
            quotas=quotas,
            assumptions=assumptions,
            prices=prices,
            seed=seed,
        )

    results = tuple(run(rate) for rate in sorted(rates))
    calm = [result for result in results if not result.held_up_by]
    return Sweep(name or option.name, option, results, calm[-1] if calm else _limit(results[0], run))


def _limit(overloaded: SimulationResult, run: Callable[[float], SimulationResult]) -> SimulationResult:
    """Return a run at a rate that no quota holds up, below that of an overload."""
    found = overloaded
    for _ in range(_TRIES):
        rate = (found.breaks_at or found.arrivals.per_second) / 2
        found = run(rate)
        if not found.held_up_by:
            return found
    return overloaded
