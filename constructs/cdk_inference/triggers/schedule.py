"""The trigger for schedules: what to score at each run is in the schedule itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_scheduler as scheduler

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.descriptions import ROLE, SCHEDULE, described
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group
from cdk_inference.triggers.base import ITrigger, check_batches
from cdk_inference.triggers.queue import MAX_BATCH_SIZE, fitting_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_sqs as sqs
    from constructs import Construct

_MOST_INPUTS = 100
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIME = "<aws.scheduler.scheduled-time>"
_DAY = 86_400


@check_props
class ScheduleTrigger(ITrigger):
    """Start a workflow at set times, with inputs that do not change; each input of a run is an item.

    EventBridge schedule for each input → queue with a dead-letter queue → EventBridge pipe. An input is what the
    preprocessing gets as the bytes of an object: a string as it is, and any other value as JSON.

    Each run has its own rows: their attribute ``key`` is the name of the input, a slash and the time of the run in
    UTC, such as ``europe/2026-03-22T18:59:43Z``. A run that is delivered twice replaces its row.

    Parameters
    ----------
    schedule
        When to run, such as ``ScheduleExpression.cron(hour="3", minute="0", time_zone=TimeZone.EUROPE_BERLIN)``. Times
        without a time zone are in UTC.
    inputs
        The inputs of each run, by name: 1 to 100 values that JSON can hold. Names have 1 to 64 letters, digits,
        ``.``, ``-`` and ``_``. Scheduler replaces its keywords, such as ``<aws.scheduler.scheduled-time>``, in inputs
        too.
    flexible_window
        Longest delay, by which Scheduler may spread runs: 1 minute to 24 hours. Default: none.
    max_event_age
        How long Scheduler tries to deliver a run that SQS does not take, 1 minute to 24 hours. Default: 24 hours.
    retry_attempts
        How often it tries again, 0 to 185. Default: 185.
    encryption_key
        Customer managed key of the queue, the dead letters, the schedules and the log group. Default: AWS encrypts with
        its own.
    batch_size
        Most inputs the workflow gets at once, 1 to 32. Default: 10.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds; at least 1 for batches of more than 10.
        Default: 1 second.
    max_receive_count
        Times an input that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. Default:
        10.
    processing_timeout
        Longest time the workflow takes; the queue hides a message for this and 30 seconds more, plus the window.
        Default: 5 minutes, the limit of an express workflow.
    log_retention
        The retention of the pipe's log group. Default: one month.
    removal_policy
        The policy of the log group. Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    queue, dead_letter_queue, undelivered_queue, schedules, log_group
        The parts; ``schedules`` by the name of the input. Runs that Scheduler cannot deliver go to
        ``undelivered_queue``.

    Raises
    ------
    PropError
        A prop is out of range, or an input is too large for a batch.
    """

    queue: sqs.IQueue
    undelivered_queue: sqs.IQueue

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        schedule: scheduler.ScheduleExpression,
        inputs: Mapping[str, object],
        flexible_window: Duration | None = None,
        max_event_age: Duration | None = None,
        retry_attempts: int = 185,
        encryption_key: kms.IKey | None = None,
        batch_size: int = 10,
        max_batching_window: Duration | None = None,
        max_receive_count: int = 10,
        processing_timeout: Duration | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
        age = max_event_age if max_event_age is not None else Duration.hours(24)
        check_batches(
            batch_size=batch_size, window=self._window, max_receive_count=max_receive_count, most=MAX_BATCH_SIZE
        )
        check_between(0, 185, retry_attempts=retry_attempts)
        seconds("max_event_age", age, least=60, most=_DAY)
        encryption.check_key(self, encryption_key)
        if encryption_key is not None:
            encryption.allow_logs(encryption_key, self)
        self._key = encryption_key
        self.batch_size, self.max_receive_count = batch_size, max_receive_count
        messages = self._messages_of(inputs, most=fitting_bytes(batch_size))

        self.dead_letter_queue = self._create_dead_letter_queue()
        self.queue = self._create_queue(processing_timeout or Duration.minutes(5))
        self.undelivered_queue = self._create_undelivered_queue()
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )
        group = scheduler.CfnScheduleGroup(self, "Group")
        target: dict[str, Any] = {
            "arn": self.queue.queue_arn,
            "role_arn": self._create_role(group).role_arn,
            "dead_letter_config": scheduler.CfnSchedule.DeadLetterConfigProperty(arn=self.undelivered_queue.queue_arn),
            "retry_policy": scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_event_age_in_seconds=age.to_seconds(), maximum_retry_attempts=retry_attempts
            ),
        }
        zone = schedule.time_zone
        self.schedules = {
            name: scheduler.CfnSchedule(
                self,
                f"Schedule-{name}",
                schedule_expression=schedule.expression_string,
                schedule_expression_timezone=None if zone is None else zone.timezone_name,
                flexible_time_window=_window(flexible_window),
                group_name=group.ref,
                kms_key_arn=None if encryption_key is None else encryption_key.key_arn,
                description=described(f"starts the workflow of {self.node.path} with the input {name}", SCHEDULE),
                target=scheduler.CfnSchedule.TargetProperty(**target, input=message),
            )
            for name, message in messages.items()
        }
        for each in self.schedules.values():
            add_metadata(each, "schedule", trigger=self.node.path)

    @property
    def source(self) -> str:
        """``sqs:`` and the name of the queue."""
        return f"sqs:{self.queue.queue_name}"

    @property
    def _item_template(self) -> str:
        return (
            ', "item": {"source": "<aws.pipes.source-arn>", "id": "<$.body.id>", "sequence": '
            '"<$.attributes.SentTimestamp>", "time": "<$.body.time>", "member": "input"}'
        )

    def _messages_of(self, inputs: Mapping[str, object], *, most: int) -> dict[str, str]:
        """Return the messages that the schedules send, by the name of the input."""
        check_between(1, _MOST_INPUTS, inputs=len(inputs))
        found = {}
        for name, value in inputs.items():
            if not _NAME.fullmatch(name):
                raise PropError(
                    f"inputs must have names of 1 to 64 letters, digits, '.', '-' and '_', got '{name}'; rename it"
                )
            try:
                message = Stack.of(self).to_json_string({"id": f"{name}/{_TIME}", "time": _TIME, "input": value})
            except Exception as error:
                raise PropError(f"inputs must be values that JSON can hold, got {value!r:.100} for '{name}'") from error
            text = Stack.of(self).resolve(message)
            if isinstance(text, str) and len(text.encode()) > most:
                raise PropError(
                    f"inputs must take at most {most:,} bytes in messages of batch_size={self.batch_size}, got "
                    f"{len(text.encode()):,} for '{name}'; use smaller batches, or name an object of S3 in it"
                )
            found[name] = message
        return found

    def _create_role(self, group: scheduler.CfnScheduleGroup) -> iam.Role:
        """Create the role that the schedules of one group send with: to the queue, and to what takes the rest."""
        role = iam.Role(
            self,
            "ScheduleRole",
            assumed_by=iam.ServicePrincipal(
                "scheduler.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": Stack.of(self).account, "aws:SourceArn": group.attr_arn}
                },
            ),
            description=described(f"sends the runs of {self.node.path} to its queue", ROLE),
            inline_policies={
                "Send": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["sqs:SendMessage"],
                            resources=[self.queue.queue_arn, self.undelivered_queue.queue_arn],
                        )
                    ]
                )
            },
        )
        encryption.grant(self._key, role, encryption.ENCRYPT)
        acknowledgments.explain(role, "inline-policy")
        acknowledgments.policy_of(role)
        return role


def _window(longest: Duration | None) -> scheduler.CfnSchedule.FlexibleTimeWindowProperty:
    if longest is None:
        return scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF")
    seconds("flexible_window", longest, least=60, most=_DAY)
    return scheduler.CfnSchedule.FlexibleTimeWindowProperty(
        mode="FLEXIBLE", maximum_window_in_minutes=longest.to_minutes()
    )
