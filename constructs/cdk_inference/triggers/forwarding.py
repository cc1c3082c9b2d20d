"""The way from a bucket of another account or Region to a trigger: EventBridge forwards its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Annotations, Duration, Stack, Token
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.principals import events_principal
from cdk_inference.common.props.descriptions import ROLE, RULE, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.triggers.base import allow_events
from cdk_inference.triggers.s3 import OBJECT_CREATED, S3_EVENTS, key_pattern

if TYPE_CHECKING:
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3

    from cdk_inference.triggers.base import IS3Trigger


@check_props
class S3EventForwarding(Construct):
    """Forward the events of a bucket to the account and Region of a trigger, and let that account read its objects.

    To be created in a stack of the bucket's account and Region. A rule there forwards the events of new objects under
    the trigger's prefix to the default bus of the trigger's account and Region. In another account, the policy of that
    bus lets this account put such events, and the policy of the bucket lets that account read. Which of its roles do
    read, that account decides: the stages of the pipeline only.

    Parameters
    ----------
    bucket
        The bucket, as this stack knows it. It must send its events to EventBridge.
    trigger
        The trigger, which has the bucket by its name: ``Bucket.from_bucket_name(stack, "Theirs", "its-name")``.
    encryption_key
        The key of the bucket. Default: that of `bucket`.

    Attributes
    ----------
    rule, role, undelivered_queue
        The parts. Events that EventBridge could not forward are in the queue, for 14 days.
    bus_policy
        The statement on the other account's bus; None in the same account.

    Raises
    ------
    PropError
        The account or the Region of a stack is not known, or both are the same.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bucket: s3.IBucket,
        trigger: IS3Trigger,
        encryption_key: kms.IKey | None = None,
    ) -> None:
        super().__init__(scope, id)
        here, there = Stack.of(self), Stack.of(trigger)
        for stack in (here, there):
            if Token.is_unresolved(stack.account) or Token.is_unresolved(stack.region):
                raise PropError(
                    f"env of stack {stack.node.path} must have an account and a Region to forward events, got none; "
                    "give it env=Environment(account=…, region=…)"
                )
        if (here.account, here.region) == (there.account, there.region):
            raise PropError(
                f"trigger must be in another account or Region than its bucket, got {here.account} and {here.region}; "
                "give the bucket to the trigger itself"
            )
        bus = f"arn:{here.partition}:events:{there.region}:{there.account}:event-bus/default"
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=events_principal(here),
            description=described(f"forwards the events of a bucket to {trigger.node.path}", ROLE),
        )
        self.role.add_to_policy(iam.PolicyStatement(actions=["events:PutEvents"], resources=[bus]))
        acknowledgments.policy_of(self.role)
        self.undelivered_queue = sqs.Queue(
            self,
            "UndeliveredQueue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        add_metadata(self.undelivered_queue, "undelivered-queue")
        acknowledgments.explain(self.undelivered_queue, "dead-letter-queue")
        self.rule = events.CfnRule(
            self,
            "ObjectCreated",
            description=described(f"new objects of a bucket for {trigger.node.path}", RULE),
            event_pattern={
                "source": [S3_EVENTS],
                "detail-type": [OBJECT_CREATED],
                "detail": {"bucket": {"name": [bucket.bucket_name]}, **key_pattern(trigger.prefix, ())},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Bus",
                    arn=bus,
                    role_arn=self.role.role_arn,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self.undelivered_queue.queue_arn),
                )
            ],
        )
        allow_events(self.undelivered_queue, self.rule)
        self.bus_policy: events.CfnEventBusPolicy | None = None
        if here.account != there.account:
            self.bus_policy = _allow_events_of(here.account, trigger, bus)
            self._allow_reading(bucket, trigger, encryption_key or bucket.encryption_key)

    def _allow_reading(self, bucket: s3.IBucket, trigger: IS3Trigger, key: kms.IKey | None) -> None:
        """Let the other account give its roles the right to read; what cannot be changed from here is warned of."""
        reader = iam.AccountPrincipal(Stack.of(trigger).account)
        statements = [
            iam.PolicyStatement(
                principals=[reader],
                actions=["s3:GetObject", "s3:GetObjectVersion"],
                resources=[bucket.arn_for_objects(f"{trigger.prefix}*")],
            ),
            iam.PolicyStatement(principals=[reader], actions=["s3:ListBucket"], resources=[bucket.bucket_arn]),
        ]
        added = [bucket.add_to_resource_policy(statement).statement_added for statement in statements]
        if not all(added):
            Annotations.of(self).add_warning_v2(
                "cdk-inference:imported-bucket-policy",
                f"the policy of the imported bucket {bucket.node.path} must allow the account "
                f"{Stack.of(trigger).account} the actions s3:GetObject, s3:GetObjectVersion and s3:ListBucket; "
                "it cannot be changed from this stack",
            )
        if key is not None:
            encryption.grant(key, reader, encryption.DECRYPT)


def _allow_events_of(account: str, trigger: IS3Trigger, bus: str) -> events.CfnEventBusPolicy:
    """Let an account put events of new objects onto the bus, once for each trigger and account."""
    return events.CfnEventBusPolicy(
        trigger,
        f"ForwardedBy{account}",
        event_bus_name="default",
        statement_id=f"forward-{account}-{trigger.node.addr[-12:]}",
        statement={
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{Stack.of(trigger).partition}:iam::{account}:root"},
            "Action": "events:PutEvents",
            "Resource": bus,
            "Condition": {"StringEquals": {"events:source": S3_EVENTS, "events:detail-type": OBJECT_CREATED}},
        },
    )
