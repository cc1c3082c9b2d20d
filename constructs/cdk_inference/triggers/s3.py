"""The trigger: new objects of a bucket are queued, and a pipe hands them to a workflow in batches."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import Annotations, Duration, Stack, Token
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.deprecations import renamed_attribute, renamed_props
from cdk_inference.common.descriptions import PIPE, ROLE, RULE, described
from cdk_inference.common.durations import seconds
from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group, private_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_stepfunctions as sfn

MAX_BATCH_SIZE = 32
"""Messages a workflow takes at once.

Pipes would take 10,000, but the input of a workflow is limited to 262,144 characters, and the event of one object can
take 7,200 of them: a key of 1,024 bytes is six times as long once it is escaped.
"""

_UPLOAD_DAYS = 7  # a multipart upload that is not complete by then is abandoned

# Quotes around a path to a string and none around one to an object, as AWS documents it. All paths are in every
# message: what AWS does about a path that is missing is not documented clearly.
_INPUT_TEMPLATE = (
    '{"message_id": "<$.messageId>", "receive_count": "<$.attributes.ApproximateReceiveCount>", "body": <$.body>}'
)

MOST_RECEIVES = 1000
"""Times that SQS delivers a message at most before it is a dead letter: the largest number that it takes."""

# https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePolicy.html has the pattern.
_NOT_IN_POLICIES = re.compile(r"[^\x20-\xff]")
_LONGEST_KEY = 1024

_LARGEST_WITHOUT_WINDOW = 10
"""Lambda's pollers of SQS refuse larger batches without a window; those of pipes are taken to be the same."""

# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html; a higher quota never exceeds the API's limit.
_PATTERN_QUOTA, _LONGEST_PATTERN = 2048, 4096
_LONGEST_BUCKET_NAME = 63

_FORWARD = (
    "move the pipeline there, or let a rule there forward the bucket's events to the default bus of this account and "
    "Region and import the bucket by its name"
)


def dead_letter(queue_url: str, *, body: str, error: str, cause: str) -> dict[str, object]:
    """Return the arguments with which a workflow sends a dead letter: the message, and why it failed.

    Parameters
    ----------
    queue_url
        The dead-letter queue.
    body
        What the message holds, as the trigger's queue had it.
    error, cause
        Name and text of the error, which readers of the queue find in the attributes ``Error`` and ``Cause``.
    """
    attributes = {"Error": error, "Cause": cause}
    return {
        "QueueUrl": queue_url,
        "MessageBody": body,
        "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    }


@check_props
@renamed_props(batch_window="max_batching_window")
class S3Trigger(Construct):
    """Queue the new objects of a bucket, and start a workflow with batches of them.

    EventBridge rule → queue with a dead-letter queue → EventBridge pipe. Notifications come through EventBridge rather
    than from the bucket, so that an imported bucket works and several consumers can listen.

    Parameters
    ----------
    bucket
        Where objects land. An imported bucket must have EventBridge notifications enabled. Default: a bucket of our
        own, versioned, encrypted, TLS only, without public access.
    prefix
        Only keys that start with it, in characters of Latin-1: IAM policies name it. Default: all keys.
    suffixes
        Only keys that end with one of them, in lower or upper case. Default: all keys.
    encryption_key
        Customer managed key of the bucket and the queues. Default: S3 and SQS encrypt with keys that they manage.
    batch_size
        Most objects the workflow gets at once, 1 to 32. Default: 32.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds; at least 1 for batches of more than 10. With
        little traffic, AWS may wait for up to 20 seconds, whatever is set. Default: 1 second.
    max_receive_count
        Times an object that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. An
        `InferenceWorkflow` with this trigger sees to that, and gives back for as long as need be what is throttled. For
        other workflows SQS counts every delivery. Default: 10.
    processing_timeout
        Longest time the workflow takes; the queue hides a message for this and 30 seconds more, plus the window.
        Default: 5 minutes, the limit of an express workflow.
    log_retention
        Of the pipe's log group. Default: one month.
    removal_policy
        Of the bucket and the log group. Default: RETAIN. DESTROY is honoured only with the context flag
        ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    bucket, queue, dead_letter_queue, undelivered_queue, rule, log_group
        The parts. Events that EventBridge cannot deliver to the queue goes to ``undelivered_queue``.
    prefix, max_receive_count
        As given.

    Raises
    ------
    PropError
        A prop is out of range.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bucket: s3.IBucket | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        encryption_key: kms.IKey | None = None,
        batch_size: int = 32,
        max_batching_window: Duration | None = None,
        max_receive_count: int = 10,
        processing_timeout: Duration | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
        hidden = processing_timeout if processing_timeout is not None else Duration.minutes(5)
        _validate(
            prefix=prefix, suffixes=suffixes, batch_size=batch_size, window=window, max_receive_count=max_receive_count
        )
        if bucket is not None:
            check_environment(self, "bucket", bucket, fix=_FORWARD)
        encryption.check_key(self, encryption_key)
        self._key = encryption_key
        # A bucket of the user's has a key of its own; one that is imported by name may be under ours.
        self._bucket_key = encryption_key if bucket is None else bucket.encryption_key or encryption_key
        self._batch_size = batch_size
        self._window = window
        self._pipe: pipes.CfnPipe | None = None
        self.prefix = prefix
        self.max_receive_count = max_receive_count
        self.bucket = bucket if bucket is not None else self._create_bucket(encryption_key, removal_policy)
        _warn_without_events(self.bucket, self)

        encrypted = sqs.QueueEncryption.KMS if encryption_key else sqs.QueueEncryption.SQS_MANAGED
        self.dead_letter_queue = sqs.Queue(
            self,
            "DeadLetterQueue",
            encryption=encrypted,
            encryption_master_key=encryption_key,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=encrypted,
            encryption_master_key=encryption_key,
            enforce_ssl=True,
            retention_period=Duration.days(14),
            redrive_allow_policy=_no_sources(),
            # A pipe may hold messages for 20 seconds before it starts the workflow; 10 are for its own calls.
            visibility_timeout=hidden.plus(window).plus(Duration.seconds(30)),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letter_queue, max_receive_count=max_receive_count),
        )
        # Under a key of SQS's own: EventBridge comes here when, say, it may not use ours. And apart from the dead
        # letters, which SQS moves back into the queue only if they come from there.
        self.undelivered_queue = sqs.Queue(
            self,
            "UndeliveredQueue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            redrive_allow_policy=_no_sources(),
            retention_period=Duration.days(14),
        )
        self.rule = self._create_rule(prefix, suffixes)
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )
        add_metadata(self.queue, "queue")
        add_metadata(self.dead_letter_queue, "dead-letter-queue")
        add_metadata(self.undelivered_queue, "undelivered-queue")
        for queue in (self.dead_letter_queue, self.undelivered_queue):
            acknowledgments.explain(queue, "dead-letter-queue")

    def _create_bucket(self, key: kms.IKey | None, removal_policy: RemovalPolicy | None) -> s3.Bucket:
        bucket = private_bucket(
            self,
            "Inbox",
            key=key,
            removal_policy=removal_policy,
            versioned=True,
            # Neither deletes an object or a version of one.
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(_UPLOAD_DAYS),
                    expired_object_delete_marker=True,
                )
            ],
        )
        # The L2 prop would add a custom resource whose role has a wildcard (aws-cdk#24086).
        cast(
            "s3.CfnBucket", bucket.node.default_child
        ).notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )
        add_metadata(bucket, "inbox")
        return bucket

    def _create_rule(self, prefix: str, suffixes: Sequence[str]) -> events.CfnRule:
        """Deliver the events of new objects to the queue.

        With the L2 rule, a queue under a customer managed key would take messages from the rules of any account, and
        the key's policy would get wildcards.
        """
        pattern = {
            "source": ["aws.s3"],
            "detail-type": ["Object Created"],
            "detail": {"bucket": {"name": [self.bucket.bucket_name]}, **_key_pattern(prefix, suffixes)},
        }
        _check_pattern(self, pattern, self.bucket.bucket_name)
        rule = events.CfnRule(
            self,
            "ObjectCreated",
            description=described(f"new objects of the inbox of {self.node.path}", RULE),
            event_pattern=pattern,
            targets=[
                events.CfnRule.TargetProperty(
                    id="Queue",
                    arn=self.queue.queue_arn,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self.undelivered_queue.queue_arn),
                )
            ],
        )
        sender = iam.ServicePrincipal("events.amazonaws.com")
        _allow_events(self.queue, rule)
        _allow_events(self.undelivered_queue, rule)
        if self._key is not None:
            # By account, since naming the rule would close a circle: key, rule, queue, key.
            added = self._key.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[sender],
                    actions=list(encryption.ENCRYPT),
                    resources=["*"],  # in a key policy: this key
                    conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}},
                )
            )
            if not added.statement_added:
                encryption.warn_of_imported_key(self, "events.amazonaws.com", encryption.ENCRYPT)
        return rule

    def add_target(self, workflow: sfn.IStateMachine) -> pipes.CfnPipe:
        """Start the express workflow with each batch, and wait for it.

        The workflow gets a list of ``{"message_id", "receive_count", "body"}``, where the count is a text and the body
        the event of EventBridge. It returns ``{"batchItemFailures": [{"itemIdentifier": message_id}]}``: these messages
        stay in the queue.
        """
        stack = Stack.of(self)
        role = iam.Role(
            self,
            "PipeRole",
            assumed_by=iam.ServicePrincipal(
                "pipes.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": stack.account},
                    "ArnLike": {"aws:SourceArn": stack.format_arn(service="pipes", resource="pipe", resource_name="*")},
                },
            ),
            description=described(f"takes messages from the queue of {self.node.path} and starts its workflow", ROLE),
            inline_policies={
                "Pipe": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                            resources=[self.queue.queue_arn],
                        ),
                        iam.PolicyStatement(
                            actions=["states:StartSyncExecution"], resources=[workflow.state_machine_arn]
                        ),
                    ]
                )
            },
        )
        encryption.grant(self._key, role, encryption.DECRYPT)
        self.log_group.grant_write(role)
        acknowledgments.explain(role, "inline-policy")
        acknowledgments.policy_of(role)
        pipe = pipes.CfnPipe(
            self,
            "Pipe",
            source=self.queue.queue_arn,
            target=workflow.state_machine_arn,
            role_arn=role.role_arn,
            log_configuration=pipes.CfnPipe.PipeLogConfigurationProperty(
                level="ERROR",
                cloudwatch_logs_log_destination=pipes.CfnPipe.CloudwatchLogsLogDestinationProperty(
                    log_group_arn=self.log_group.log_group_arn
                ),
            ),
            description=described(f"hands the queue of {self.node.path} to its workflow in batches", PIPE),
            source_parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                sqs_queue_parameters=pipes.CfnPipe.PipeSourceSqsQueueParametersProperty(
                    batch_size=self._batch_size, maximum_batching_window_in_seconds=self._window.to_seconds()
                )
            ),
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                input_template=_INPUT_TEMPLATE,
                step_function_state_machine_parameters=pipes.CfnPipe.PipeTargetStateMachineParametersProperty(
                    invocation_type="REQUEST_RESPONSE"
                ),
            ),
        )
        for policy in role.node.children:  # the pipe checks its permissions when it is created
            pipe.node.add_dependency(policy)
        add_metadata(pipe, "pipe", bucket=self.bucket.bucket_name, prefix=self.prefix)
        self._pipe = pipe
        return pipe

    def allow_undelivered(self, rule: events.CfnRule) -> None:
        """Let a rule of EventBridge put what else got lost into ``undelivered_queue``."""
        _allow_events(self.undelivered_queue, rule)

    def grant_send_dead_letter(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put messages into the dead-letter queue."""
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["sqs:SendMessage"], resource_arns=[self.dead_letter_queue.queue_arn]
        )

    grant_bury = renamed_attribute("S3Trigger.grant_bury", "grant_send_dead_letter")

    def leave_dead_letters_to(self, workflow: iam.IGrantable) -> iam.Grant:
        """Let a workflow decide which messages become dead letters, and put them into the queue itself.

        SQS counts deliveries, and cannot tell those of an object that fails from those in which a function was
        throttled. So it only moves what was delivered `MOST_RECEIVES` times.
        """
        queue = cast("sqs.CfnQueue", self.queue.node.default_child)
        queue.add_property_override("RedrivePolicy.maxReceiveCount", MOST_RECEIVES)
        return self.grant_send_dead_letter(workflow)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects under the prefix."""
        encryption.grant(self._bucket_key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:PutObject"],
            resource_arns=[self.bucket.arn_for_objects(f"{self.prefix}*")],
        )

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read the objects under the prefix.

        Listing is part of it: without it S3 answers 403 rather than 404 for an object that is gone.
        """
        encryption.grant(self._bucket_key, grantee, encryption.DECRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["s3:GetObject", "s3:GetObjectVersion"],
            resource_arns=[self.bucket.arn_for_objects(f"{self.prefix}*")],
        ).combine(
            iam.Grant.add_to_principal(
                grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
            )
        )

    def metric_queue_depth(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages waiting, the maximum over 5 minutes."""
        return self.queue.metric_approximate_number_of_messages_visible(**options)

    def metric_oldest_message_age(self, **options: Any) -> cloudwatch.Metric:
        """Measure the age in seconds of the oldest message, the maximum over 5 minutes."""
        return self.queue.metric_approximate_age_of_oldest_message(**options)

    def metric_pipe_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions of the pipe that failed, as a sum over 5 minutes.

        Raises
        ------
        PropError
            There is no pipe: `add_target` makes it.
        """
        return self._metric_pipe("ExecutionFailed", options)

    def metric_pipe_throttled(self, **options: Any) -> cloudwatch.Metric:
        """Count the executions of the pipe that were throttled, as a sum over 5 minutes; see `metric_pipe_failed`."""
        return self._metric_pipe("ExecutionThrottled", options)

    def _metric_pipe(self, name: str, options: dict[str, Any]) -> cloudwatch.Metric:
        from aws_cdk import aws_cloudwatch as cloudwatch  # noqa: PLC0415 - for who asks

        if self._pipe is None:
            raise PropError(f"{self.node.path} must have a target before its pipe has metrics, got none; add_target()")
        return cloudwatch.Metric(
            **{
                "namespace": "AWS/EventBridge/Pipes",
                "metric_name": name,
                "dimensions_map": {"PipeName": self._pipe.ref},
                "statistic": cloudwatch.Stats.SUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the events that EventBridge was not able to deliver to the queue, the maximum over 5 minutes."""
        return self.undelivered_queue.metric_approximate_number_of_messages_visible(**options)

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages in the dead-letter queue, the maximum over 5 minutes."""
        return self.dead_letter_queue.metric_approximate_number_of_messages_visible(**options)


def _validate(
    *, prefix: str, suffixes: Sequence[str], batch_size: int, window: Duration, max_receive_count: int
) -> None:
    if _NOT_IN_POLICIES.search(prefix):
        raise PropError(
            f"prefix must consist of printable Latin-1 characters, got '{prefix}', which IAM policies cannot name; "
            "put the objects under such a prefix, or leave prefix out"
        )
    if len(prefix.encode()) > _LONGEST_KEY:
        raise PropError(
            f"prefix must have at most {_LONGEST_KEY} bytes, as keys of S3 do, got {len(prefix.encode())}; shorten it"
        )
    for special in ("*", "?", "${"):
        if special in prefix:
            raise PropError(f"prefix '{prefix}' has '{special}', which a policy would not take literally; use another")
    for suffix in suffixes:
        if not suffix.startswith(".") or "*" in suffix or len(suffix) < 2:  # noqa: PLR2004
            raise PropError(f"suffix '{suffix}' is not of the form '.jpg'")
    if not Token.is_unresolved(batch_size) and not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise PropError(f"batch_size is {batch_size}; it must be between 1 and {MAX_BATCH_SIZE}")
    if not Token.is_unresolved(max_receive_count) and not 1 <= max_receive_count <= 1000:  # noqa: PLR2004
        raise PropError(f"max_receive_count is {max_receive_count}; it must be between 1 and 1000")
    waits = seconds("max_batching_window", window, least=0, most=300)
    if waits == 0 and not Token.is_unresolved(batch_size) and batch_size > _LARGEST_WITHOUT_WINDOW:
        raise PropError(
            f"max_batching_window must be at least 1 s for batches of more than {_LARGEST_WITHOUT_WINDOW}, got 0 s "
            f"with batch_size={batch_size}; wait for a second, or use batch_size={_LARGEST_WITHOUT_WINDOW}"
        )


def _no_sources() -> sqs.RedriveAllowPolicy:
    """Let no queue use this one for its dead letters.

    The trigger's own dead-letter queue cannot name its one source: the two queues would refer to each other.
    """
    return sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL)


def _allow_events(queue: sqs.Queue, rule: events.CfnRule) -> None:
    queue.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("events.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[queue.queue_arn],
            conditions={"ArnEquals": {"aws:SourceArn": rule.attr_arn}},
        )
    )


def _warn_without_events(bucket: s3.IBucket, scope: Construct) -> None:
    """Say so if a bucket of the app does not tell EventBridge of its objects; of an imported one nothing is known."""
    resource = bucket.node.default_child
    if not isinstance(resource, s3.CfnBucket):
        return
    # The L2's event_bridge_enabled works through a custom resource, which is a child of this name.
    if resource.notification_configuration is None and bucket.node.try_find_child("Notifications") is None:
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:bucket-without-events",
            f"bucket {bucket.node.path} does not send its events to EventBridge, so nothing would ever arrive; "
            "set event_bridge_enabled=True",
        )


def _check_pattern(scope: Construct, pattern: Mapping[str, object], bucket: str) -> None:
    """Refuse an event pattern that EventBridge refuses, and warn of one that exceeds its default quota."""
    written = json.dumps(pattern, separators=(",", ":"), ensure_ascii=False)
    size = len(written) + (_LONGEST_BUCKET_NAME - len(bucket) if Token.is_unresolved(bucket) else 0)
    what = f"prefix and suffixes must make an event pattern of at most {{}} characters, got {size}"
    fix = "use fewer suffixes or a shorter prefix"
    if size > _LONGEST_PATTERN:
        raise PropError(f"{what.format(f'{_LONGEST_PATTERN:,}')}; {fix}")
    if size > _PATTERN_QUOTA:
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:long-event-pattern",
            f"{what.format(f'{_PATTERN_QUOTA:,}')}, unless the EventBridge quota of your account was raised; {fix}",
        )


def _key_pattern(prefix: str, suffixes: Sequence[str]) -> dict[str, object]:
    """Build the part of the event pattern that picks keys: EventBridge compares case, photographs do not."""
    patterns: list[object]
    if suffixes:
        spellings = sorted({spelling for suffix in suffixes for spelling in (suffix.lower(), suffix.upper(), suffix)})
        escaped = prefix.replace("\\", "\\\\")
        patterns = [{"wildcard": f"{escaped}*{spelling}"} for spelling in spellings]
    elif prefix:
        patterns = [{"prefix": prefix}]
    else:
        return {}
    return {"object": {"key": patterns}}
