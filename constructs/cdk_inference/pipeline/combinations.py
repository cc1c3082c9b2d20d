"""Which props of a pipeline go together, and the routes that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.errors import PropError
from cdk_inference.routing.inference import Inference
from cdk_inference.routing.plan import RoutePlan
from cdk_inference.routing.route import Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration
    from aws_cdk import aws_s3 as s3

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.explanations.explain import Explain
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.releases.strategy import Arms, ReleaseStrategy
    from cdk_inference.routing.plan import Branch
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.triggers.base import ITrigger

BATCH_SIZE, MAX_RECEIVE_COUNT = 32, 10
OWN = "main"
"""The route of the pipeline's own model."""


def plan_of(
    release: ReleaseStrategy | None,
    model: ModelArtifact | None,
    preprocess: Preprocess | None,
    inference: Inference | None,
    routing: Branch | None,
    platform: LambdaPlatform | None = None,
    explain: Explain | None = None,
) -> tuple[RoutePlan, Arms | None]:
    """Return the plan of all routes, and the models of a release that runs two side by side.

    Raises
    ------
    PropError
        These props do not go together.
    """
    own = None if model is None or preprocess is None else _own_route(model, preprocess, inference, explain)
    arms = None if release is None else release.arms(own)
    if arms is None:
        return RoutePlan.of(_branch_of(model, preprocess, inference, routing, explain), platform=platform), None
    branch = arms.stable if routing is None else _branch_of(model, preprocess, inference, routing, explain)
    plan = RoutePlan.of(branch, {arms.stable: arms}, platform)
    arms.check(plan)
    return plan, arms


def _branch_of(
    model: ModelArtifact | None,
    preprocess: Preprocess | None,
    inference: Inference | None,
    routing: Branch | None,
    explain: Explain | None,
) -> Branch:
    """Return what items go through: the routing, or the route of the one model."""
    if routing is not None:
        props = {"model": model, "preprocess": preprocess, "inference": inference, "explain": explain}
        given = [name for name, prop in props.items() if prop is not None]
        if given:
            raise PropError(f"{', '.join(given)} must be left out with routing, got both; each route has its own")
        return routing
    if model is None:
        raise PropError("model must be a ModelArtifact, got None; pass one, or a routing")
    if preprocess is None:
        raise PropError(
            "preprocess must be set, got None; say how objects become the model's input, such as Preprocess.image"
        )
    return _own_route(model, preprocess, inference, explain)


def _own_route(
    model: ModelArtifact, preprocess: Preprocess, inference: Inference | None, explain: Explain | None
) -> Route:
    return Route(OWN, model=model, preprocess=preprocess, inference=inference or Inference.cpu(), explain=explain)


def check_trigger(
    trigger: ITrigger | None,
    bucket: s3.IBucket | None,
    prefix: str,
    suffixes: Sequence[str],
    batch_size: int,
    window: Duration | None,
    max_receive_count: int,
    *,
    usual_batch: int = BATCH_SIZE,
) -> None:
    """Refuse props of a new trigger next to one that is given."""
    given = {
        "bucket": bucket is not None,
        "prefix": bool(prefix),
        "suffixes": bool(suffixes),
        "batch_size": batch_size != usual_batch,
        "max_batching_window": window is not None,
        "max_receive_count": max_receive_count != MAX_RECEIVE_COUNT,
    }
    names = [name for name, is_given in given.items() if is_given]
    if trigger is not None and names:
        raise PropError(f"{names[0]} must be left out with a trigger, got both; give it to the trigger")


def check_suffixes(suffixes: Sequence[str], preprocess: Preprocess) -> None:
    """Refuse suffixes that the preprocessing does not read."""
    for suffix in suffixes:
        if preprocess.suffixes is not None and suffix.lower() not in preprocess.suffixes:
            raise PropError(
                f"suffixes must be ones that the preprocessing reads ({', '.join(preprocess.suffixes)}), got '{suffix}'"
            )
