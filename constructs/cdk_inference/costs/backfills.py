"""Estimates what a backfill costs: what it scores anew, and what it only looks at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.costs.estimates import estimate
from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import GIB, MILLION
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.costs.options import Option, PipelineShape

_LISTED_AT_ONCE = 1000
_PLANNER_MIB, _PLANNER_SECONDS = 512, 0.3
_CHILD_MIB = 64
# These bring items into the workflow: a backfill brings them itself.
_FRONT = ("EventBridge events", "SQS requests", "pipe requests")


@dataclass(frozen=True)
class BackfillPrices:
    """The costs of a million objects, in USD.

    Parameters
    ----------
    looked_at
        To find out that an object need not be scored.
    scored
        To score it, besides that; None if the pipeline's costs are not known.
    region, as_of
        Those of the prices.
    """

    looked_at: float
    scored: float | None
    region: str
    as_of: str

    @classmethod
    def of(
        cls, options: Sequence[Option | None], *, shape: PipelineShape, prices: Prices | None = None
    ) -> BackfillPrices:
        """Estimate them; of several routes, those of the most expensive one.

        Each object takes a HEAD request and a strongly consistent read of 4 KB. A batch takes an invocation of 512 MiB,
        which is taken to last 0.3 s and was not measured, and a child execution. The start of a child counts as a
        transition of the standard workflow.

        Parameters
        ----------
        options
            The routes; None for one that is not known.
        shape
            The shape of the pipeline.
        prices
            Default: list prices of us-east-1.
        """
        prices = prices or Prices()
        batches = MILLION / shape.batch_size
        looked_at = (
            MILLION * (prices.s3_gets + prices.dynamodb_reads)
            + MILLION / _LISTED_AT_ONCE * prices.s3_puts
            + batches * (prices.lambda_requests + prices.express_requests + prices.standard_transitions)
            + batches * _PLANNER_SECONDS * _PLANNER_MIB / GIB * prices.lambda_gb_second("arm64") * MILLION
            + batches * _PLANNER_SECONDS * _CHILD_MIB / GIB * prices.express_gb_seconds
        ) / MILLION
        scored = [_scored(option, shape, prices) for option in options]
        known = [usd for usd in scored if usd is not None]
        return cls(
            looked_at=round(looked_at, 2),
            scored=round(max(known), 2) if known and len(known) == len(scored) else None,
            region=prices.region,
            as_of=str(prices.as_of),
        )

    def usd(self, looked_at: int, scored: int) -> float | None:
        """Return what so many objects cost; None if that is not known."""
        if self.scored is None:
            return None
        return (looked_at * self.looked_at + scored * self.scored) / MILLION

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the attributes as members."""
        return asdict(self)


def _scored(option: Option | None, shape: PipelineShape, prices: Prices) -> float | None:
    if option is None:
        return None
    try:
        found = estimate(option, Traffic(items_per_month=MILLION), shape=shape, prices=prices)
    except PropError:  # no latency, or no price
        return None
    # The child waits for the workflow, and is billed for as long.
    return found.usd_per_month - sum(map(found.usd, _FRONT)) + found.usd("GB-seconds of express")
