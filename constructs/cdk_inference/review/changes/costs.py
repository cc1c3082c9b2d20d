"""Compares what two apps cost with the same traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.costs.estimates import Estimate, estimate
from cdk_inference.costs.recorded import RecordedCosts
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.costs.options import Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.review.assembly import Assembly


@dataclass(frozen=True)
class CostChange:
    """The costs of one way through a pipeline, if all traffic takes it.

    Parameters
    ----------
    pipeline
        The path of the pipeline.
    way
        The name of the route.
    alone
        Whether the pipeline has no other way.
    before, after
        The estimates; None where the way is missing, or its costs are not known.
    """

    pipeline: str
    way: str
    alone: bool
    before: Estimate | None
    after: Estimate | None

    @property
    def more(self) -> float | None:
        """By which share it costs more, such as 0.25; negative if it costs less."""
        if self.before is None or self.after is None or not self.before.usd_per_month:
            return None
        return self.after.usd_per_month / self.before.usd_per_month - 1

    @property
    def services(self) -> list[tuple[str, float, float]]:
        """The services whose costs differ by a cent or more, with both costs, the largest difference first."""
        one, two = ({line.service for line in each.lines} if each else set() for each in (self.before, self.after))
        pairs = [
            (name, self.before.usd(name) if self.before else 0.0, self.after.usd(name) if self.after else 0.0)
            for name in one | two
        ]
        changed = [pair for pair in pairs if abs(pair[2] - pair[1]) >= 0.01]  # noqa: PLR2004
        return sorted(changed, key=lambda pair: (-abs(pair[2] - pair[1]), pair[0]))


def compare(before: Assembly | None, after: Assembly, traffic: Traffic, prices: Prices) -> list[CostChange]:
    """Return the costs of each way through each pipeline of the second app."""
    changes = []
    for pipeline, text in after.costs.items():
        new = _estimates(text, traffic, prices)
        old = _estimates(before.costs.get(pipeline), traffic, prices) if before is not None else {}
        changes += [CostChange(pipeline, way, len(new) == 1, old.get(way), found) for way, found in new.items()]
    return changes


def _estimates(text: str | None, traffic: Traffic, prices: Prices) -> Mapping[str, Estimate | None]:
    """Return the estimates by the way; none for an assembly of another version of this library."""
    if text is None:
        return {}
    try:
        recorded = RecordedCosts.from_json(text)
    except ValueError:
        return {}
    found: dict[str, Estimate | None] = {}
    for way, option in recorded.ways.items():
        found[way] = None
        if option is not None:
            try:
                found[way] = estimate(option, traffic, shape=recorded.shape, prices=prices)
            except PropError:  # no price of such an instance
                continue
    return found
