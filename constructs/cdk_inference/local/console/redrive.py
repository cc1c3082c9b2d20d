"""Sends objects through the pipeline again, so that their history stays right: with the event that they came with."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from cdk_inference.local import aws
from cdk_inference.local.errors import LocalError
from cdk_inference.local.messages import queue_url

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cdk_inference.local.uploads import Pipeline

_BATCH = 10  # messages of a request, as SQS has it
_HELD_SECONDS = 30  # for which nobody else receives what was looked at
_EMPTY = 3  # answers without a message after which there are none left

REPEATABLE = ("REJECTED", "FAILED")
"""The statuses of rows that another result of the same event replaces."""


def redrive(endpoint: str, pipeline: Pipeline, ids: Collection[str] | None) -> int:
    """Send dead letters back to the queue, and return how many.

    Each is sent before it is deleted, as SQS's message move task does. A message that comes twice changes nothing.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    pipeline
        The pipeline.
    ids
        The ids of the messages. Default: all.

    Raises
    ------
    LocalError
        If the pipeline has no queue, or no dead-letter queue.
    """
    if pipeline.parts.queue is None or pipeline.dead_letter_queue is None:
        raise LocalError(f"pipeline must have a queue and a dead-letter queue, got {pipeline.name}")
    sqs = aws.client(endpoint, "sqs", pipeline.env)
    source = queue_url(endpoint, pipeline.dead_letter_queue, pipeline.env)
    target = queue_url(endpoint, pipeline.parts.queue, pipeline.env)
    left = None if ids is None else set(ids)
    passed: dict[str, str] = {}  # receipts of those that stay, by id
    sent = empty = 0
    while empty < _EMPTY and (left is None or left):
        received = sqs.receive_message(
            QueueUrl=source, MaxNumberOfMessages=_BATCH, VisibilityTimeout=_HELD_SECONDS
        ).get("Messages", [])
        # SQS gives out again the messages that were looked at, if there are very many.
        empty = 0 if any(message["MessageId"] not in passed for message in received) else empty + 1
        chosen = [message for message in received if left is None or message["MessageId"] in left]
        passed |= {message["MessageId"]: message["ReceiptHandle"] for message in received if message not in chosen}
        if chosen:
            sent += _move(sqs, chosen, source, target)
        if left is not None:
            left -= {message["MessageId"] for message in chosen}
    receipts = list(passed.values())
    for first in range(0, len(receipts), _BATCH):
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
            for number, receipt in enumerate(receipts[first : first + _BATCH])
        ]
        sqs.change_message_visibility_batch(QueueUrl=source, Entries=entries)
    return sent


def score_again(endpoint: str, pipeline: Pipeline, rows: Iterable[Mapping[str, Any]]) -> int:
    """Send the events of rows that did not succeed to the queue once more, and return how many.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    pipeline
        The pipeline.
    rows
        Whole rows. Those that succeeded, and those that are of no object of the bucket, are left out.

    Raises
    ------
    LocalError
        If the pipeline has no queue.
    """
    if pipeline.parts.queue is None:
        raise LocalError(f"pipeline must have a queue, got {pipeline.name}")
    sqs = aws.client(endpoint, "sqs", pipeline.env)
    target = queue_url(endpoint, pipeline.parts.queue, pipeline.env)
    bodies = [
        json.dumps(event_of(row, pipeline.env))
        for row in rows
        if row["status"] in REPEATABLE and row["bucket"] == pipeline.inbox  # others have no event
    ]
    for first in range(0, len(bodies), _BATCH):
        _send(sqs, target, bodies[first : first + _BATCH])
    return len(bodies)


def event_of(row: Mapping[str, Any], env: aws.Env) -> dict[str, Any]:
    """Return the event that a row is of, as EventBridge delivered it: it has the same version, etag and sequencer."""
    thing = {"key": row["key"], "size": row["size"], "etag": row["etag"], "sequencer": row["sequencer"]}
    version = str(row["version"]).partition("#")[0]
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": env.account,
        "time": row["event_time"],
        "region": env.region,
        "resources": [f"arn:aws:s3:::{row['bucket']}"],
        "detail": {
            "version": "0",
            "bucket": {"name": row["bucket"]},
            "object": thing if version == "null" else {**thing, "version-id": version},
        },
    }


def _move(sqs: Any, found: list[dict[str, Any]], source: str, target: str) -> int:  # noqa: ANN401
    _send(sqs, target, [message["Body"] for message in found])
    entries = [{"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(found)]
    sqs.delete_message_batch(QueueUrl=source, Entries=entries)
    return len(found)


def _send(sqs: Any, queue: str, bodies: list[str]) -> None:  # noqa: ANN401
    entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
    failed = sqs.send_message_batch(QueueUrl=queue, Entries=entries).get("Failed", [])
    if failed:
        raise LocalError(f"the queue must take the messages, got {failed[0].get('Message', failed[0])}")
