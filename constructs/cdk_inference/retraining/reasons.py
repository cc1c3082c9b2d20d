"""The reasons to retrain a model: enough new labels, an alarm, or a schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets

from cdk_inference.common import acknowledgments
from cdk_inference.common.props.descriptions import RULE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least

if TYPE_CHECKING:
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_stepfunctions as sfn
    from constructs import Construct


@check_props
class RetrainingReason(ABC):
    """A reason to retrain. `RetrainOn` has a factory for each kind."""

    new_labels: int | None = None
    """How many new labels are enough, if it is about labels."""

    @abstractmethod
    def bind(self, scope: Construct, id: str, machine: sfn.IStateMachine, role: iam.IRole) -> None:
        """Have the workflow started for this reason.

        Parameters
        ----------
        scope, id
            The retraining, and an id that is unique there.
        machine
            The workflow.
        role
            A role that lets EventBridge start it.
        """


@check_props
class RetrainOn:
    """Reasons to retrain a model. A run that goes on, a used budget, or labels that are known come first."""

    @classmethod
    def new_labels(cls, count: int) -> RetrainingReason:
        """Retrain when so many labels are new since the last run, and again when there are as many more.

        Parameters
        ----------
        count
            How many, 1 or more. A label that is changed is a new one.

        Raises
        ------
        PropError
            It is below 1.
        """
        return _NewLabels(count)

    @classmethod
    def alarm(cls, alarm: cloudwatch.IAlarm) -> RetrainingReason:
        """Retrain when an alarm goes off, such as one on `DriftMonitor.metric_drift`.

        Parameters
        ----------
        alarm
            The alarm; a composite one too.
        """
        return _Alarm(alarm)

    @classmethod
    def schedule(cls, schedule: events.Schedule) -> RetrainingReason:
        """Retrain at fixed times, if there are labels that no run has trained with.

        Parameters
        ----------
        schedule
            The times, in UTC.
        """
        return _Schedule(schedule)


@dataclass(frozen=True)
class _NewLabels(RetrainingReason):
    count: int

    def __post_init__(self) -> None:
        check_at_least(1, count=self.count)

    @property
    def new_labels(self) -> int:  # type: ignore[override]
        return self.count

    def bind(self, scope: Construct, id: str, machine: sfn.IStateMachine, role: iam.IRole) -> None:
        """Do nothing: the function that takes labels counts them, and starts the workflow."""


@dataclass(frozen=True)
class _Alarm(RetrainingReason):
    watched: cloudwatch.IAlarm

    def bind(self, scope: Construct, id: str, machine: sfn.IStateMachine, role: iam.IRole) -> None:
        start_by_rule(
            scope,
            id,
            machine,
            role,
            why="alarm",
            event_pattern=events.EventPattern(
                source=["aws.cloudwatch"],
                detail_type=["CloudWatch Alarm State Change"],
                resources=[self.watched.alarm_arn],
                detail={"state": {"value": ["ALARM"]}},
            ),
        )


@dataclass(frozen=True)
class _Schedule(RetrainingReason):
    times: events.Schedule

    def bind(self, scope: Construct, id: str, machine: sfn.IStateMachine, role: iam.IRole) -> None:
        start_by_rule(scope, id, machine, role, why="schedule", schedule=self.times)


def start_by_rule(
    scope: Construct,
    id: str,
    machine: sfn.IStateMachine,
    role: iam.IRole,
    *,
    why: str,
    event_pattern: events.EventPattern | None = None,
    schedule: events.Schedule | None = None,
) -> None:
    """Create a rule that starts the workflow.

    A start that is lost is one of many, as the reason stays or comes again.

    Parameters
    ----------
    scope, id
        The retraining, and an id that is unique there.
    machine, role
        The workflow, and a role that lets EventBridge start it.
    why
        The name by which the workflow tells that it was this rule.
    event_pattern, schedule
        One of the two: the events that start it, or the times.
    """
    rule = events.Rule(
        scope,
        id,
        description=described(f"retrains a model of {scope.node.path} by {why}", RULE),
        event_pattern=event_pattern,
        schedule=schedule,
        targets=[targets.SfnStateMachine(machine, role=role, input=events.RuleTargetInput.from_object({"by": why}))],
    )
    acknowledgments.explain(rule, "rule-of-last-resort")
