"""Queues of what nobody could take, with the defaults that all of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs

from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata

if TYPE_CHECKING:
    from constructs import Construct


def last_resort(scope: Construct, id: str, role: str) -> sqs.Queue:
    """Create a queue for what could not be delivered, for 14 days; no queue may redrive to it.

    Its key is SQS's own, since the customer managed one may be what a sender lacks. A service's right to send under a
    customer managed key would also be one of all accounts.

    Parameters
    ----------
    scope, id
        The place of the construct.
    role
        The name of the queue's part in metadata, such as ``"undelivered-queue"``.
    """
    queue = sqs.Queue(
        scope,
        id,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        redrive_allow_policy=no_sources(),
        retention_period=Duration.days(14),
    )
    add_metadata(queue, role)
    acknowledgments.explain(queue, "dead-letter-queue")
    return queue


def no_sources() -> sqs.RedriveAllowPolicy:
    """Let no queue use this one for its dead letters.

    The trigger's own dead-letter queue cannot name its one source: the two queues would refer to each other.
    """
    return sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL)
