"""The trigger without EventBridge: a bucket notifies a queue of new objects itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.triggers.base import IS3Trigger, check_batches
from cdk_inference.triggers.s3 import MAX_RECEIVE_COUNT, check_keys, create_inbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_pipes as pipes
    from aws_cdk import aws_stepfunctions as sfn
    from constructs import Construct

MAX_BATCH_SIZE = 1000
"""Messages of an invocation. Lambda takes 10,000, and ends a batch sooner that would exceed 6 MB."""

BATCH_SIZE = 10
_SAFE = re.compile(r"[A-Za-z0-9/!_.'()-]*")
_MOST_SUFFIXES = 33  # spelled three ways, of 100 configurations of a bucket


@check_props
class S3NotificationTrigger(IS3Trigger):
    """Queue the new objects of a new bucket, which notifies the queue itself.

    S3 event notifications → queue with a dead-letter queue. Compared with an `S3Trigger`, it needs neither a rule
    nor a queue of undelivered events, and events are free. Nobody else can listen, and the bucket must be new. A
    function takes the messages, see `DirectPipeline`.

    Parameters
    ----------
    prefix, suffixes, encryption_key, batch_size, max_batching_window, max_receive_count, removal_policy
        As those of `S3Trigger`; `batch_size` is 1 to 1,000, and 10 by default. At most 33 suffixes.
    processing_timeout
        The timeout of the function. Default: 5 minutes.

    Attributes
    ----------
    bucket, queue, dead_letter_queue
        The parts.

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
        prefix: str = "",
        suffixes: Sequence[str] = (),
        encryption_key: kms.IKey | None = None,
        batch_size: int = BATCH_SIZE,
        max_batching_window: Duration | None = None,
        max_receive_count: int = MAX_RECEIVE_COUNT,
        processing_timeout: Duration | None = None,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._window = max_batching_window if max_batching_window is not None else Duration.seconds(1)
        check_keys(prefix, suffixes)
        check_batches(
            batch_size=batch_size, window=self._window, max_receive_count=max_receive_count, most=MAX_BATCH_SIZE
        )
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html asks for others to be
        # encoded, but not by which API: an object that matches no filter would be lost.
        for prop, texts in {"prefix": [prefix], "suffixes": suffixes}.items():
            for text in texts:
                if not _SAFE.fullmatch(text):
                    raise PropError(
                        f"{prop} must consist of letters, digits and /!-_.'(), got '{text}'; use an S3Trigger, which "
                        "takes others"
                    )
        if len(suffixes) > _MOST_SUFFIXES:
            raise PropError(f"suffixes must have at most {_MOST_SUFFIXES} members, got {len(suffixes)}; use a prefix")
        encryption.check_key(self, encryption_key)
        self._key = self._bucket_key = encryption_key
        self.prefix, self.batch_size, self.max_receive_count = prefix, batch_size, max_receive_count
        self.dead_letter_queue = self._create_dead_letter_queue()
        self.queue = self._create_queue(processing_timeout if processing_timeout is not None else Duration.minutes(5))
        self._let_s3_send()
        told = [self._configuration(prefix, suffix) for suffix in _spellings(suffixes)]
        self.bucket = create_inbox(
            self,
            encryption_key,
            removal_policy,
            s3.CfnBucket.NotificationConfigurationProperty(queue_configurations=told),
        )
        self.bucket.node.add_dependency(self.queue)  # S3 tries whether it may send; the policy is a child of the queue

    def add_target(self, workflow: sfn.IStateMachine, *, encryption_key: kms.IKey | None = None) -> pipes.CfnPipe:  # noqa: ARG002
        """Refuse a workflow, which reads the events of EventBridge.

        Raises
        ------
        PropError
            Always: use an `S3Trigger`.
        """
        raise PropError(
            f"{self.node.path} must have a function as its target, got the workflow {workflow.node.path}; use a "
            "DirectPipeline, or an S3Trigger"
        )

    def _let_s3_send(self) -> None:
        """Let S3 send for buckets of this account: naming the bucket would close a circle, as it names the queue."""
        sender = iam.ServicePrincipal("s3.amazonaws.com")
        here = {"StringEquals": {"aws:SourceAccount": Stack.of(self).account}}
        self.queue.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[sender],
                actions=["sqs:SendMessage"],
                resources=[self.queue.queue_arn],
                conditions=here,
            )
        )
        if self._key is not None:
            added = self._key.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[sender],
                    actions=list(encryption.ENCRYPT),
                    resources=["*"],  # in a key policy: this key
                    conditions=here,
                )
            )
            if not added.statement_added:
                encryption.warn_of_imported_key(self, "s3.amazonaws.com", encryption.ENCRYPT)

    def _configuration(self, prefix: str, suffix: str) -> s3.CfnBucket.QueueConfigurationProperty:
        chosen = {"prefix": prefix, "suffix": suffix}
        rules = [s3.CfnBucket.FilterRuleProperty(name=name, value=value) for name, value in chosen.items() if value]
        return s3.CfnBucket.QueueConfigurationProperty(
            event="s3:ObjectCreated:*",
            queue=self.queue.queue_arn,
            filter=s3.CfnBucket.NotificationFilterProperty(s3_key=s3.CfnBucket.S3KeyFilterProperty(rules=rules))
            if rules
            else None,
        )


def _spellings(suffixes: Sequence[str]) -> list[str]:
    """Return the suffixes as S3 compares them, by case; an empty one stands for all keys."""
    found = {spelling for suffix in suffixes for spelling in (suffix.lower(), suffix.upper(), suffix)}
    return sorted(found) or [""]
