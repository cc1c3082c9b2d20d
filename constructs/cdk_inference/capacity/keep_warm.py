"""Environments that are kept by invoking them every few minutes: cheap, and without any promise of Lambda's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import Duration, Token

from cdk_inference.capacity.strategy import CapacityStrategy, live_alias, reserve_at_least
from cdk_inference.common import acknowledgments
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.props.durations import seconds
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct

HOLD_MS = 500
"""How long each of several warming events holds its environment, so that the others need one each."""

MOST_ENVIRONMENTS = 50
_TARGETS = 5  # of one rule of EventBridge
_MINUTE = 60


@dataclass(frozen=True)
class KeepWarm(CapacityStrategy):
    """See `Capacity.keep_warm`."""

    environments: int = 1
    every: Duration | None = None

    def __post_init__(self) -> None:
        # How many targets there are must be known when the template is written.
        if Token.is_unresolved(self.environments):
            raise PropError("environments of Capacity.keep_warm must be known at synth, got a token; use a number")
        if not 1 <= self.environments <= MOST_ENVIRONMENTS:
            raise PropError(
                f"environments of Capacity.keep_warm must be 1 to {MOST_ENVIRONMENTS}, got {self.environments}; use "
                "Capacity.provisioned() for more"
            )
        if self.every is not None:
            value = seconds("every", self.every, least=_MINUTE, most=60 * _MINUTE)
            if value is not None and value % _MINUTE:
                raise PropError(f"every must be in whole minutes, as the rules of EventBridge are, got {value} s")

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse to reserve less than is kept warm: the events themselves would be throttled."""
        reserve_at_least(self.environments, reserved, "kept warm", "keep fewer")

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias, which the rules invoke too."""
        target = live_alias(scope, function)
        # The local target's environments are processes that stay anyway.
        if not on_cpu_only(scope):
            self._warm(scope, target)
        return target

    def _warm(self, scope: Construct, target: lambda_.IFunction) -> None:
        from aws_cdk import aws_events as events  # noqa: PLC0415 # few need them, and all would wait
        from aws_cdk import aws_events_targets as targets  # noqa: PLC0415

        # A warming event that fails is worth nothing later. Neither EventBridge nor Lambda, which would go on for 6
        # hours, tries it again. None is kept in a dead-letter queue.
        target.configure_async_invoke(retry_attempts=0, max_event_age=Duration.minutes(1))
        acknowledgments.explain(target.node.find_child("EventInvokeConfig"), "rule-of-last-resort")
        event: dict[str, object] = {"cdk-inference": "warm"}
        if self.environments > 1:
            event["hold_ms"] = HOLD_MS
        every = self.every if self.every is not None else Duration.minutes(5)
        for first in range(0, self.environments, _TARGETS):
            rule = events.Rule(
                scope,
                f"Warming{first // _TARGETS or ''}",
                description="keeps environments of a function warm",
                schedule=events.Schedule.rate(every),
            )
            acknowledgments.explain(rule, "rule-of-last-resort")
            for _ in range(min(_TARGETS, self.environments - first)):
                rule.add_target(
                    targets.LambdaFunction(
                        target,
                        event=events.RuleTargetInput.from_object(event),
                        retry_attempts=0,
                        max_event_age=Duration.minutes(1),
                    )
                )
