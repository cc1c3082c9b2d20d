"""Alarms on what needs a person. Each has a reason, a threshold with its source, and a section of the runbook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_share
from cdk_inference.monitoring.stages import stages_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aws_cdk import aws_sns as sns

    from cdk_inference.pipeline.operated import OperatedPipeline

RUNBOOK = "docs/operate/runbook.md"
"""The page in the repository of this library."""

_LEAST_OBJECTS = 20
"""Objects of a period below which a share of them says nothing."""

_MOST_DESCRIPTION = 1024  # characters, of CloudWatch


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """When a person must look, and why.

    Parameters
    ----------
    name
        The id of the alarm.
    section
        The section of the runbook, as its anchor.
    metric
        The metric that is compared.
    above
        The alarm goes off above this.
    reason
        Why that needs a person.
    source
        Where the threshold is from.
    periods
        How many periods in a row.
    """

    name: str
    section: str
    metric: cloudwatch.IMetric
    above: float
    reason: str
    source: str
    periods: int = 1


@check_props
class PipelineAlarms(Construct):
    """The alarms of a pipeline; made by `pipeline.add_alarms`, which has the props.

    Attributes
    ----------
    alarms
        By name. Change or remove what does not suit you through these.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        pipeline: OperatedPipeline,
        topic: sns.ITopic | None = None,
        actions: Sequence[cloudwatch.IAlarmAction] = (),
        max_latency: Duration | None = None,
        max_message_age: Duration | None = None,
        max_rejected_share: float = 0.2,
        runbook: str = RUNBOOK,
    ) -> None:
        super().__init__(scope, id)
        check_share(max_rejected_share=max_rejected_share)
        latency = max_latency if max_latency is not None else Duration.minutes(5)
        age = max_message_age if max_message_age is not None else Duration.minutes(15)
        notified = list(actions)
        if topic is not None:
            from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions  # noqa: PLC0415 - only with a topic

            notified.append(cloudwatch_actions.SnsAction(topic))
        self.alarms: dict[str, cloudwatch.Alarm] = {}
        for rule in _rules(pipeline, latency, age, max_rejected_share):
            text = f"{rule.reason}. Threshold: {rule.source}. What to do: {runbook}#{rule.section}"
            alarm = cloudwatch.Alarm(
                self,
                rule.name,
                metric=rule.metric,
                threshold=rule.above,
                comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
                evaluation_periods=rule.periods,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
                alarm_description=text[:_MOST_DESCRIPTION],
            )
            alarm.add_alarm_action(*notified)
            self.alarms[rule.name] = alarm


def _rules(pipeline: OperatedPipeline, latency: Duration, age: Duration, rejected_share: float) -> Iterator[AlarmRule]:
    yield from _rules_of_objects(pipeline, latency, rejected_share)
    yield from _rules_of_queues(pipeline, age)
    yield from _rules_of_workflows(pipeline)
    for stage in stages_of(pipeline):
        throttled = cloudwatch.MathExpression(
            expression="IF(t + i > 0, t / (t + i), 0)",
            using_metrics={"t": stage.stage.metric_throttles(), "i": stage.stage.metric_invocations()},
            label="share of throttled invocations",
        )
        yield AlarmRule(
            name=f"{stage.id}Throttled",
            section="throttled-functions",
            metric=throttled,
            above=0.5,
            periods=3,
            reason=f"most invocations of {stage.label} are throttled, so that a backlog grows",
            source="batches come back for 15 minutes, more than a burst takes to be let through",
        )
        failed = cloudwatch.MathExpression(
            expression="IF(i > 0, e / i, 0)",
            using_metrics={"e": stage.stage.metric_errors(), "i": stage.stage.metric_invocations()},
            label="share of failed invocations",
        )
        yield AlarmRule(
            name=f"{stage.id}Fails",
            section="failing-functions",
            metric=failed,
            above=0.25,
            periods=3,
            reason=f"many invocations of {stage.label} fail as a whole",
            source="finding one bad object takes a few failures; a quarter for 15 minutes is more than that",
        )
    for monitor in pipeline.drift_monitors:
        for route, name in monitor.watched.items():
            yield AlarmRule(
                name=f"{monitor.node.id}{route}",
                section="drift",
                metric=monitor.metric_drift(route=route),
                above=1,
                periods=2,
                reason=f"what {name} scores is no longer like its evaluation data",
                source="chance alone exceeds it in a window as rarely as false_alarm_rate says; two in a row do",
            )


def _rules_of_objects(pipeline: OperatedPipeline, latency: Duration, rejected_share: float) -> Iterator[AlarmRule]:
    yield AlarmRule(
        name="FailedResults",
        section="failed-results",
        metric=pipeline.metric_failed(),
        above=0,
        reason="objects got a row that says FAILED, though they could be read",
        source="each is an answer that somebody waits for",
    )
    rejected = cloudwatch.MathExpression(
        expression=f"IF(s + r + f >= {_LEAST_OBJECTS}, r / (s + r + f), 0)",
        using_metrics={
            "s": pipeline.metric_succeeded(),
            "r": pipeline.metric_rejected(),
            "f": pipeline.metric_failed(),
        },
        label="share of rejected objects",
    )
    yield AlarmRule(
        name="Rejected",
        section="rejected-objects",
        metric=rejected,
        above=rejected_share,
        reason="many objects are refused for what they contain",
        source=f"max_rejected_share, of {_LEAST_OBJECTS} objects or more in 5 minutes",
    )
    yield AlarmRule(
        name="SlowResults",
        section="slow-results",
        metric=pipeline.metric_latency(),
        above=latency.to_milliseconds(),
        periods=3,
        reason="rows are written long after their objects were",
        source="max_latency; by default the longest that one execution may take",
    )


def _rules_of_queues(pipeline: OperatedPipeline, age: Duration) -> Iterator[AlarmRule]:
    yield AlarmRule(
        name="DeadLetters",
        section="dead-letters",
        metric=pipeline.metric_dead_letters(),
        above=0,
        reason="objects failed by themselves until they were given up",
        source="each waits for a person, and is deleted after 14 days",
    )
    objects = pipeline.trigger.objects
    if objects is not None:
        yield AlarmRule(
            name="ObjectDeadLetters",
            section="objects-that-cannot-be-taken-apart",
            metric=objects.metric_dead_letters(),
            above=0,
            reason="objects cannot be taken apart into items",
            source="each waits for a person, and is deleted after 14 days",
        )
        yield AlarmRule(
            name="OldObjects",
            section="old-messages",
            metric=objects.metric_oldest_message_age(),
            above=age.to_seconds(),
            reason="objects wait to be taken apart: there is a backlog, or they come back again and again",
            source="max_message_age; an object that failed comes back after 15 minutes",
        )
    if pipeline.trigger.undelivered_queue is not None:
        yield AlarmRule(
            name="Undelivered",
            section="undelivered-events",
            metric=pipeline.metric_undelivered(),
            above=0,
            reason="events did not reach the queue, or a workflow that waited failed as a whole",
            source="nothing tries them again",
        )
    if (waiting := pipeline.trigger.age_metric()) is not None:
        yield AlarmRule(
            name="OldMessages",
            section="old-messages",
            metric=waiting,
            above=age.to_seconds(),
            reason="objects wait: there is a backlog, or they come back again and again",
            source="max_message_age; by default three executions of 5 minutes",
        )


def _rules_of_workflows(pipeline: OperatedPipeline) -> Iterator[AlarmRule]:
    if pipeline.trigger.workflow is not None:
        yield AlarmRule(
            name="SplittingFails",
            section="objects-that-cannot-be-taken-apart",
            metric=pipeline.trigger.workflow.metric_failed(),
            above=0,
            reason="executions that take large objects apart fail",
            source="each leaves an object of which not all items are scored",
        )
    if pipeline.workflow is not None:
        yield AlarmRule(
            name="WorkflowFails",
            section="failing-workflows",
            metric=pipeline.workflow.metric_failed(),
            above=0,
            reason="executions fail as a whole: something is misconfigured, such as a permission",
            source="errors of objects and of services do not fail an execution",
        )
        yield AlarmRule(
            name="WorkflowTimesOut",
            section="slow-workflows",
            metric=pipeline.workflow.metric_timed_out(),
            above=0,
            reason="executions end before their batch is done, and all of it is tried again",
            source="a workflow begins no part of a batch for which its time might not suffice",
        )
    yield AlarmRule(
        name="ThrottledWrites",
        section="throttled-writes",
        metric=pipeline.results.metric_throttled_writes(),
        above=0,
        periods=3,
        reason="DynamoDB refuses rows",
        source="a table on demand takes a doubled load at once, so that 15 minutes are more than growth",
    )
    for name, stages in pipeline.routes.items():
        waiting = getattr(stages, "gpu_workflow", None)
        if waiting is not None:
            yield AlarmRule(
                name=f"{name}GpuWorkflowFails",
                section="failing-workflows",
                metric=waiting.metric_failed(),
                above=0,
                reason="executions that wait for a GPU fail as a whole",
                source="their objects get rows and dead letters unless it is misconfigured",
            )
