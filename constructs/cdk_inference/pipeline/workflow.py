"""The workflow: preprocess, infer and postprocess a batch, and find the item that kills its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration, Token
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.definition import PARTS, WorkflowDefinition
from cdk_inference.stages.state_machine import LoggedStateMachine
from cdk_inference.storage import encryption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.pipeline.routes import WorkflowRoute
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.routing.router import Router
    from cdk_inference.triggers.base import ITrigger

_DEAD_LETTERS = 10_000  # milliseconds that are kept for them


@check_props
@renamed_props(legs="routes")
class InferenceWorkflow(LoggedStateMachine):
    """An express state machine that takes a batch of messages through the stages.

    Input: a list of ``{"message_id", "receive_count", "body"}``, as `S3Trigger` sends it. Output:
    ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``, the messages that must be tried again.

    The stages handle the errors of single items themselves. When an invocation dies as a whole (out of memory, a crash,
    a timeout), the batch is split into four parts. These are scored at the same time, each with its items isolated from
    each other. A part that dies then is split into single items. An item that still dies fails alone. Messages that
    came back are kept from new ones, and isolated at once.

    An item that fails by itself is given back to the queue. With a trigger, it goes to the dead-letter queue with its
    error once it has been delivered ``max_receive_count`` times. When Lambda or another service is not available, items
    are given back however often that happens. So are the items that are left when the time might not suffice for
    another part. An execution that ran out of time would report its finished part as failed too. When something must be
    repaired, such as a missing permission, the execution fails at its end, and its messages stay in the queue.

    With several routes, items are sorted by destination first, and each part is a separate batch. Items of which the
    first model of a cascade is not sure become a batch of the second. A route on a GPU ends after preprocessing: a
    workflow that may wait takes over. A fused route has one state, "Score".

    Parameters
    ----------
    routes
        The ways that items can take: a `StagedRoute` or a `FusedRoute` for each.
    router
        Sorts the items, if there is more than one route.
    release
        Has the share of a candidate, and counts what came out, if there is one.
    trigger
        The trigger whose dead-letter queue takes what fails by itself too often. Default: all of it is given back, and
        the queue that the messages come from decides.
    timeout
        The time limit of one execution, at most 5 minutes. Default: 5 minutes.
    encryption_key
        Customer managed key of the log group, the definition and the executions. Default: AWS encrypts with its own.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    state_machine
        The state machine, for everything this construct does not cover.

    Raises
    ------
    PropError
        Batches may have to wait for a route, and no workflow takes over. The timeouts of a route do not fit into the
        workflow's. Or there are several routes, and no router.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        routes: Sequence[WorkflowRoute],
        router: Router | None = None,
        release: ReleaseControl | None = None,
        trigger: ITrigger | None = None,
        timeout: Duration | None = None,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        limit = timeout if timeout is not None else Duration.minutes(5)
        _check_routes(routes, router, limit)
        self._create(
            first_state=WorkflowDefinition(
                self, last_start=_last_start(limit, routes), trigger=trigger, release=release
            ).build(routes, router, at_once=_at_once(routes)),
            comment=f"scores batches of objects with {', '.join(route.model_stage.node.path for route in routes)}",
            state_machine_type=sfn.StateMachineType.EXPRESS,
            timeout=limit,
            encryption_key=encryption_key,
            log_retention=log_retention,
            log_removal_policy=log_removal_policy,
        )
        for route in routes:
            for stage in route.express_stages:
                stage.grant_invoke(self.state_machine)
            if route.gpu_workflow is not None:
                route.gpu_workflow.grant_start_execution(self.state_machine)
        if router is not None:
            router.grant(self.state_machine)
        if release is not None:
            release.grant(self.state_machine)
        if trigger is not None:
            trigger.leave_dead_letters_to(self.state_machine)
        self._complete("state-machine")

    def grant_start_sync_execution(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee run a batch and wait for the answer."""
        encryption.grant_executions(self.state_machine, self._key, grantee)
        return self.state_machine.grant_start_sync_execution(grantee)


def _check_routes(routes: Sequence[WorkflowRoute], router: Router | None, limit: Duration) -> None:
    if not routes or (len(routes) > 1 and router is None):
        raise PropError(f"routes must have one member without a router, got {len(routes)}; add a router that chooses")
    for route in routes:
        stage = route.model_stage
        if stage.max_wait is not None and route.gpu_workflow is None:
            raise PropError(
                f"routes must have a gpu_workflow for {stage.node.path}, got none; batches may have to wait longer "
                "for it than the 5 minutes after which an express workflow ends"
            )
        longest = _longest(route)
        if longest is not None and not limit.is_unresolved() and longest > limit.to_milliseconds():
            raise PropError(
                f"timeouts of the stages of {stage.node.path} must fit into the workflow's {limit.to_seconds():g} s, "
                f"got {longest // 1000} s; give them shorter timeouts"
            )


def _at_once(routes: Sequence[WorkflowRoute]) -> int:
    """Return how many parts to score at a time: more than a function may run would only be throttled."""
    stages = [stage for route in routes for stage in route.express_stages]
    reserved = [stage.reserved_concurrent_executions for stage in stages]
    return min([PARTS, *(one for one in reserved if one is not None and not Token.is_unresolved(one))])


def _last_start(timeout: Duration, routes: Sequence[WorkflowRoute]) -> int:
    """Return the milliseconds after which a part might not be done within the timeout, and half of that at least."""
    limit = int(timeout.to_milliseconds())
    longest = [_longest(route) for route in routes]
    if None in longest:
        return limit // 2
    return max(limit - max(one for one in longest if one is not None) - _DEAD_LETTERS, limit // 2)


def _longest(route: WorkflowRoute) -> int | None:
    """Return the milliseconds that a part of a batch may take on a route; None if that is not known yet."""
    if any(stage.timeout.is_unresolved() for stage in route.express_stages):
        return None
    return sum(int(stage.timeout.to_milliseconds()) for stage in route.express_stages)
