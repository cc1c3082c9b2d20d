"""The costs of a pipeline in AWS: of what has run here, and of a month of traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdk_inference.costs.estimates import estimate
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import MILLION
from cdk_inference.costs.recorded import RecordedCosts
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from cdk_inference.costs.options import Traffic


def costs(recorded: str | None, traffic: Traffic, *, rows: int) -> dict[str, Any]:
    """Return what a pipeline costs: all its routes by their shares, or each of them if all traffic took it.

    Parameters
    ----------
    recorded
        The record of its costs in the deployed template; None if there is none.
    traffic
        A month's traffic.
    rows
        How many rows have been written here.
    """
    prices = Prices()
    ways = []
    try:
        found = None if recorded is None else RecordedCosts.from_json(recorded)
    except ValueError:
        found = None  # an app of another version of this library
    mixed = None if found is None or len(found.ways) == 1 else found.mix()
    options = {} if found is None else {**({} if mixed is None else {mixed.name: mixed}), **found.ways}
    for name, option in options.items():
        if option is None:
            continue
        try:
            priced = estimate(option, traffic, shape=found.shape if found is not None else None, prices=prices)
        except PropError:  # no price of such an instance
            continue
        per_million = priced.usd_per_million
        ways.append(
            {
                "name": name,
                "usd_per_month": priced.usd_per_month,
                "usd_per_million": per_million,
                "usd_so_far": None if per_million is None else per_million * rows / MILLION,
                "lines": [[line.service, line.usd, line.how] for line in priced.lines],
            }
        )
    described = {"traffic": traffic.describe(), "region": prices.region, "as_of": str(prices.as_of)}
    return {**described, "ways": ways, "rows": rows}
