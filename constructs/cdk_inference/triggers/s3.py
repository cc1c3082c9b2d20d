"""The trigger: new objects of a bucket are queued, and a pipe hands them to a workflow in batches."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

from aws_cdk import Annotations, Duration, Stack, Token
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs

from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.descriptions import RULE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import PIPE_LOGS, log_group, private_bucket
from cdk_inference.triggers.base import IS3Trigger, allow_events, check_batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct

MAX_BATCH_SIZE = 32
"""Messages a workflow takes at once.

Pipes would take 10,000, but the input of a workflow is limited to 262,144 characters. The event of one object can take
7,200 of them: a key of 1,024 bytes is six times as long once it is escaped.
"""

MAX_RECEIVE_COUNT = 10

_UPLOAD_DAYS = 7  # a multipart upload that is not complete by then is abandoned

# https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePolicy.html has the pattern.
_NOT_IN_POLICIES = re.compile(r"[^\x20-\xff]")
_LONGEST_KEY = 1024

# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html; a higher quota never exceeds the API's limit.
_PATTERN_QUOTA, _LONGEST_PATTERN = 2048, 4096
_LONGEST_BUCKET_NAME = 63

S3_EVENTS, OBJECT_CREATED = "aws.s3", "Object Created"
"""Source and type of the events of new objects."""

_FORWARD = "move the pipeline there, or import the bucket by its name and forward its events with S3EventForwarding"


@check_props
@renamed_props(batch_window="max_batching_window")
class S3Trigger(IS3Trigger):
    """Queue the new objects of a bucket, and start a workflow with batches of them.

    EventBridge rule → queue with a dead-letter queue → EventBridge pipe. Notifications come through EventBridge rather
    than from the bucket, so that an imported bucket works and several consumers can listen.

    Parameters
    ----------
    bucket
        Where objects land. An imported bucket must have EventBridge notifications enabled. Default: a new
        bucket, versioned, encrypted, TLS only, without public access.
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
        The retention of the pipe's log group. Default: one month.
    removal_policy
        The policy of the bucket and the log group. Default: RETAIN. DESTROY is honoured only with the context flag
        ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    bucket, queue, dead_letter_queue, undelivered_queue, rule, log_group
        The parts. Events that EventBridge cannot deliver to the queue goes to ``undelivered_queue``.
    prefix, suffixes, max_receive_count
        As given.

    Raises
    ------
    PropError
        A prop is out of range.
    """

    undelivered_queue: sqs.IQueue

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
        max_receive_count: int = MAX_RECEIVE_COUNT,
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
        # The user's bucket knows its key; one that is imported by name may be under ours.
        self._bucket_key = encryption_key if bucket is None else bucket.encryption_key or encryption_key
        self.batch_size = batch_size
        self._window = window
        self.prefix, self.suffixes = prefix, tuple(suffixes)
        self.max_receive_count = max_receive_count
        self.bucket = bucket if bucket is not None else _create_inbox(self, encryption_key, removal_policy)
        _warn_without_events(self.bucket, self)

        self.dead_letter_queue = self._create_dead_letter_queue()
        self.queue = self._create_queue(hidden)
        self.undelivered_queue = self._create_undelivered_queue()
        self.rule = self._create_rule(prefix, suffixes)
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )

    def _create_rule(self, prefix: str, suffixes: Sequence[str]) -> events.CfnRule:
        """Deliver the events of new objects to the queue.

        With the L2 rule, a queue under a customer managed key would take messages from the rules of any account. The
        key's policy would get wildcards.
        """
        pattern = {
            "source": [S3_EVENTS],
            "detail-type": [OBJECT_CREATED],
            "detail": {"bucket": {"name": [self.bucket.bucket_name]}, **key_pattern(prefix, suffixes)},
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
        allow_events(self.queue, rule)
        allow_events(self.undelivered_queue, rule)
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

    @classmethod
    def from_trigger_attributes(
        cls,
        scope: Construct,
        id: str,
        *,
        bucket: s3.IBucket,
        queue: sqs.IQueue,
        dead_letter_queue: sqs.IQueue,
        undelivered_queue: sqs.IQueue,
        prefix: str = "",
        batch_size: int = 32,
        max_batching_window: Duration | None = None,
        max_receive_count: int = MAX_RECEIVE_COUNT,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> IS3Trigger:
        """Use the bucket and the queues of another stack's trigger, to start a workflow of this stack.

        Only one workflow can take the messages of a queue. The owner's queue must hide messages for as long as the
        workflow takes. Its `max_receive_count` should be 1,000, so that the workflow decides what a dead letter is.

        Parameters
        ----------
        bucket, queue, dead_letter_queue, undelivered_queue
            The parts of that trigger, such as ``Queue.from_queue_arn(self, "Queue", arn)``.
        prefix
            That of the trigger. Default: all keys.
        batch_size, max_batching_window, max_receive_count
            As those of `S3Trigger`, for the workflow of this stack.
        encryption_key
            Customer managed key of the queues and the bucket. Default: none.
        log_retention, removal_policy
            The retention of the pipe's log group. Default: one month, and RETAIN.

        Raises
        ------
        PropError
            A prop is out of range, or the bucket is in another account or Region.
        """
        return _ImportedTrigger(
            scope,
            id,
            bucket=bucket,
            queue=queue,
            dead_letter_queue=dead_letter_queue,
            undelivered_queue=undelivered_queue,
            prefix=prefix,
            batch_size=batch_size,
            window=max_batching_window if max_batching_window is not None else Duration.seconds(1),
            max_receive_count=max_receive_count,
            encryption_key=encryption_key,
            log_retention=log_retention,
            removal_policy=removal_policy,
        )


class _ImportedTrigger(IS3Trigger):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bucket: s3.IBucket,
        queue: sqs.IQueue,
        dead_letter_queue: sqs.IQueue,
        undelivered_queue: sqs.IQueue,
        prefix: str,
        batch_size: int,
        window: Duration,
        max_receive_count: int,
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays,
        removal_policy: RemovalPolicy | None,
    ) -> None:
        super().__init__(scope, id)
        _validate(prefix=prefix, suffixes=(), batch_size=batch_size, window=window, max_receive_count=max_receive_count)
        check_environment(self, "bucket", bucket, fix=_FORWARD)
        self.bucket, self.prefix = bucket, prefix
        self.queue, self.dead_letter_queue, self.undelivered_queue = queue, dead_letter_queue, undelivered_queue
        self.batch_size, self._window, self.max_receive_count = batch_size, window, max_receive_count
        self._key = encryption_key
        self._bucket_key = bucket.encryption_key or encryption_key
        self.log_group = log_group(
            self, key=encryption_key, retention=log_retention, removal_policy=removal_policy, folder=PIPE_LOGS
        )


def create_inbox(
    scope: Construct,
    key: kms.IKey | None,
    removal_policy: RemovalPolicy | None,
    notifications: s3.CfnBucket.NotificationConfigurationProperty,
) -> s3.Bucket:
    """Create the bucket of a trigger, and have it tell of new objects."""
    bucket = private_bucket(
        scope,
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
    cast("s3.CfnBucket", bucket.node.default_child).notification_configuration = notifications
    add_metadata(bucket, "inbox", trigger=scope.node.path)
    return bucket


def _create_inbox(scope: Construct, key: kms.IKey | None, removal_policy: RemovalPolicy | None) -> s3.Bucket:
    """Create a bucket that tells EventBridge."""
    events_on = s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
    told = s3.CfnBucket.NotificationConfigurationProperty(event_bridge_configuration=events_on)
    return create_inbox(scope, key, removal_policy, told)


def check_keys(prefix: str, suffixes: Sequence[str]) -> None:
    """Refuse a prefix or suffixes by which nothing can be chosen or granted.

    Raises
    ------
    PropError
        A prop is out of range.
    """
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
            raise PropError(
                f"prefix must not contain '{special}', which a policy would not take literally, got '{prefix}'; use "
                "another"
            )
    for suffix in suffixes:
        if not suffix.startswith(".") or "*" in suffix or len(suffix) < 2:  # noqa: PLR2004
            raise PropError(f"suffixes must be of the form '.jpg', got '{suffix}'")


def _validate(
    *, prefix: str, suffixes: Sequence[str], batch_size: int, window: Duration, max_receive_count: int
) -> None:
    check_keys(prefix, suffixes)
    check_batches(batch_size=batch_size, window=window, max_receive_count=max_receive_count, most=MAX_BATCH_SIZE)


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


def key_pattern(prefix: str, suffixes: Sequence[str]) -> dict[str, object]:
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
