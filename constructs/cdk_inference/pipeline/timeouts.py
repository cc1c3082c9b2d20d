"""Whether the invocations that a batch may take fit into the time of its workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Token

from cdk_inference.common.props.durations import seconds
from cdk_inference.errors import PropError
from cdk_inference.pipeline.definition import PARTS
from cdk_inference.routing.inference import CpuStrategy

if TYPE_CHECKING:
    from aws_cdk import Duration

    from cdk_inference.routing.plan import RoutePlan
    from cdk_inference.routing.route import Route

EXPRESS_LIMIT_SECONDS = 300


def check_timeouts(
    batch_size: int, stage_timeout: Duration, workflow_timeout: Duration, plan: RoutePlan, *, functions_in_turn: int
) -> None:
    """Refuse timeouts of functions that a workflow does not have the time for.

    Parameters
    ----------
    batch_size, stage_timeout, workflow_timeout
        As those of `InferencePipeline`.
    plan
        The routes.
    functions_in_turn
        As that of `ExecutionStrategy`.

    Raises
    ------
    PropError
        A timeout is out of range, or finding the items that time out takes too long.
    """
    workflow = seconds("workflow_timeout", workflow_timeout, least=1, most=EXPRESS_LIMIT_SECONDS)
    stage = seconds("stage_timeout", stage_timeout, least=1, most=EXPRESS_LIMIT_SECONDS)
    if workflow is None or stage is None or Token.is_unresolved(batch_size):
        return
    # The batch, its parts, and single items.
    rounds = 1 + (batch_size > 1) + (batch_size > PARTS)
    # After the first of three functions, the last part still has two to go.
    invocations = rounds + functions_in_turn - 1
    for planned in plan.planned.values():
        routes = [planned.route]
        if planned.escalation is not None:
            routes.append(plan.routes[plan.destinations[planned.escalation.then].planned])
        slowest = [max(stage, _own_timeout(route)) for route in routes]
        if invocations * sum(slowest) > workflow:
            which = "stage_timeout" if max(slowest) == stage else f"the timeout of inference on route {routes[-1].name}"
            raise PropError(
                f"{which} must be at most {workflow // (invocations * len(routes))} s, got {max(slowest)} s; finding "
                f"the objects that time out in a batch of {batch_size} takes {invocations * len(routes)} invocations "
                f"within the workflow's {workflow} s, so use a shorter timeout, or smaller batches"
            )


def _own_timeout(route: Route) -> float:
    """Return the seconds that inference on a route may take in the express workflow, if it says so itself."""
    inference = route.inference
    if not isinstance(inference, CpuStrategy) or inference.timeout is None:
        return 0
    return seconds("timeout", inference.timeout, least=1, most=EXPRESS_LIMIT_SECONDS) or 0
