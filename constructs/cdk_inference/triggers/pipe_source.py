"""The source of a trigger's pipe, and the message that the pipe makes of each record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import aws_iam as iam
from aws_cdk import aws_pipes as pipes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_sqs as sqs

# Quotes around a path to a string and none around one to an object, as AWS documents it. All paths are in every
# message: what AWS does about a path that is missing is not documented clearly.
_OF_A_QUEUE = (
    '"message_id": "<$.messageId>", "receive_count": "<$.attributes.ApproximateReceiveCount>", "body": <$.body>'
)


@dataclass(frozen=True, kw_only=True)
class PipeSource:
    """The source of a pipe.

    Parameters
    ----------
    arn
        ARN of the queue or stream.
    kind, contents
        The names of such a source and of its contents in descriptions, such as ``"queue"`` and ``"messages"``.
    statements
        The permissions of the pipe's role.
    key
        The customer managed key under which it is encrypted, if there is one.
    parameters
        How the pipe reads it.
    message
        The members of the message that the pipe makes of a record, as a part of a template.
    """

    arn: str
    kind: str
    contents: str
    statements: Sequence[iam.PolicyStatement]
    key: kms.IKey | None
    parameters: pipes.CfnPipe.PipeSourceParametersProperty
    message: str

    @classmethod
    def queue(
        cls, queue: sqs.IQueue, *, key: kms.IKey | None, batch_size: int, window: Duration, item: str
    ) -> PipeSource:
        """Return the source for a queue, whose messages may have further members, which say what item one is."""
        return cls(
            arn=queue.queue_arn,
            kind="queue",
            contents="messages",
            statements=[
                iam.PolicyStatement(
                    actions=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                    resources=[queue.queue_arn],
                )
            ],
            key=key,
            parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                sqs_queue_parameters=pipes.CfnPipe.PipeSourceSqsQueueParametersProperty(
                    batch_size=batch_size, maximum_batching_window_in_seconds=window.to_seconds()
                )
            ),
            message=f"{_OF_A_QUEUE}{item}",
        )
