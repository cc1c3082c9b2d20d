"""Compares what two apps cost with the same traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.costs.estimates import Estimate, estimate
from cdk_inference.costs.options import CascadeOption
from cdk_inference.costs.recorded import RecordedCosts
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.costs.options import Option, Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.review.assembly import Assembly


@dataclass(frozen=True)
class CostChange:
    """The costs of a pipeline, or of one way through it if all traffic takes that.

    Parameters
    ----------
    pipeline
        The path of the pipeline.
    way
        The name of the route; ``""`` for the pipeline with the traffic that each route gets.
    shares
        The share of the objects that each route gets, and that a cascade passes on, in words. It is ``""`` if nobody
        knows.
    before, after
        The estimates; None where the way is missing, or its costs are not known.
    """

    pipeline: str
    way: str
    shares: str
    before: Estimate | None
    after: Estimate | None

    @property
    def name(self) -> str:
        """The pipeline, and the route if all traffic is to take it."""
        return f"{self.pipeline}, route {self.way}" if self.way else self.pipeline

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
    """Return the costs of each pipeline of the second app; of each way through it if their shares are not known."""
    changes = []
    for pipeline, text in after.costs.items():
        new = _Costs.of(text, traffic, prices)
        old = _Costs.of(before.costs.get(pipeline) if before is not None else None, traffic, prices)
        if new.whole is not None:
            changes.append(CostChange(pipeline, "", new.shares, old.whole, new.whole))
        elif len(new.ways) == 1:
            changes.append(CostChange(pipeline, "", "", old.whole, None))
        else:
            changes += [CostChange(pipeline, way, "", old.ways.get(way), found) for way, found in new.ways.items()]
    return changes


@dataclass(frozen=True)
class _Costs:
    """The estimates of a pipeline; empty for an assembly of another version of this library."""

    whole: Estimate | None
    ways: Mapping[str, Estimate | None]
    shares: str

    @classmethod
    def of(cls, text: str | None, traffic: Traffic, prices: Prices) -> _Costs:
        try:
            recorded = RecordedCosts.from_json(text) if text is not None else None
        except ValueError:
            recorded = None
        if recorded is None:
            return cls(None, {}, "")

        def known(option: Option | None) -> Estimate | None:
            try:
                return None if option is None else estimate(option, traffic, shape=recorded.shape, prices=prices)
            except PropError:  # no price of such an instance
                return None

        ways = {way: known(option) for way, option in recorded.ways.items()}
        whole = next(iter(ways.values())) if len(ways) == 1 else known(recorded.mix())
        return cls(whole, ways, _shares(recorded) if whole is not None else "")


def _shares(recorded: RecordedCosts) -> str:
    """Return which share of the objects takes which way, the largest first."""
    texts = []
    for way, option in sorted(recorded.ways.items(), key=lambda pair: -(recorded.shares.get(pair[0]) or 0)):
        share = recorded.shares.get(way)
        text = way if share is None or len(recorded.ways) == 1 else f"{_percent(share)} {way}"
        if isinstance(option, CascadeOption):
            text += f", of which {_percent(option.escalation)} go on to {option.then.name}"
        if text != way:
            texts.append(text)
    return "; ".join(texts)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
