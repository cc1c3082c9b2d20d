"""How sure a device must be for its own answer to count, by the models of the device and of the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.errors import PropError
from cdk_inference.model.cascade import calibrate
from cdk_inference.routing.packaged import check_portable
from cdk_inference.routing.strategies import check_first

if TYPE_CHECKING:
    from cdk_inference.model.calibration import Calibration
    from cdk_inference.routing.plan import RoutePlan
    from cdk_inference.routing.route import Route

_AGREEMENT = 0.99


@dataclass(frozen=True)
class EdgeEscalation:
    """Which items a device sends.

    Parameters
    ----------
    threshold
        Those of a lower confidence.
    calibration
        By what the threshold was found; None if it was given.
    """

    threshold: float
    calibration: Calibration | None

    @property
    def rate(self) -> float | None:
        """The share of the items that is expected to be sent; None if it was not measured."""
        if self.calibration is None:
            return None if self.threshold else 0.0
        return self.calibration.escalation_rate if self.calibration.samples else None


def escalation_of(
    route: Route, plan: RoutePlan, *, then: Route | None, agreement: float | None, threshold: float | None
) -> EdgeEscalation:
    """Return the escalation of a device's route, calibrated unless the threshold is given.

    Parameters
    ----------
    route
        The route that the device runs.
    plan
        The plan of the pipeline that scores the rest.
    then
        The route whose answers count. Default: the only one of the plan.
    agreement, threshold
        As those of `Routing.cascade`.

    Raises
    ------
    PropError
        The route cannot run on a device, a number is out of range, or the pipeline has several models to agree with.
    ModelBuildError
        As `Routing.cascade`.
    """
    check_portable(route)
    check_first("route", route, agreement=agreement, threshold=threshold)
    if threshold is not None:
        return EdgeEscalation(threshold, None)
    other = then if then is not None else _only(plan)
    if other.model is route.model:
        raise PropError(
            f"route must have another model than the pipeline, got '{route.model.manifest.name}' for both; give it a "
            "smaller one, or a threshold"
        )
    found = calibrate(route.model, other.model, agreement=_AGREEMENT if agreement is None else agreement)
    return EdgeEscalation(found.threshold, found)


def _only(plan: RoutePlan) -> Route:
    ways = list(plan.first_hand.values())
    if len(ways) != 1 or ways[0].escalation is not None:
        names = ", ".join(plan.routes)
        raise PropError(
            f"then must name the route whose answers devices shall agree with, got None for a pipeline of {names}; "
            "pass then=, or a threshold"
        )
    return ways[0].route
