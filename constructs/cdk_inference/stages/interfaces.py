"""The interfaces of stages: what workflows need of whatever runs a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cdk_inference.common.props.deprecations import warn_deprecated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Duration
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_stepfunctions as sfn
    from constructs import Construct, Node

    from cdk_inference.stages.base import StageFunction


class IInvocable(Protocol):
    """Something that a workflow invokes with a batch, such as what a GPU backend makes."""

    timeout: Duration

    @property
    def transient_errors(self) -> tuple[str, ...]:
        """Errors of an invocation that say nothing about the items."""

    @property
    def stage_functions(self) -> tuple[StageFunction, ...]:
        """The Lambda functions that run the model or the stage's code, whose aliases move together."""

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The principal that runs the stage."""

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee do what `task` does."""

    def task(
        self,
        scope: Construct,
        id: str,
        *,
        payload: Mapping[str, object] | str,
        assign: Mapping[str, object] | None = None,
        output: object = None,
    ) -> sfn.CustomState:
        """Make the state that runs a batch."""

    def metric_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that failed as a whole."""

    def metric_throttles(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that were refused."""

    def metric_duration(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of an invocation."""

    def metric_invocations(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations."""


class IStage(IInvocable, Protocol):
    """A stage of a route, such as inference on a CPU or on a GPU."""

    @property
    def node(self) -> Node:
        """The node of the construct."""

    @property
    def model_version(self) -> str | None:
        """The version of the model; None if the stage runs none, or if it is not known."""

    @property
    def max_wait(self) -> Duration | None:
        """How long a batch may wait for the stage; None if the stage always answers within an express workflow."""

    @property
    def reserved_concurrent_executions(self) -> int | None:
        """The concurrency that is kept for the stage, and its limit."""


def _slow(stage: IStage) -> bool:
    warn_deprecated(f"{type(stage).__name__}.slow", ".max_wait, which is None for a stage that answers at once")
    return stage.max_wait is not None


SLOW = property(_slow, doc="Deprecated: use `max_wait`.")
