"""Puts messages that failed for good into a dead-letter queue, as workflows do."""

from __future__ import annotations

import logging
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.errors import reason_of

_log = logging.getLogger(__name__)


def send_dead_letter(sqs: Any, queue_url: str, record: dict[str, Any], *, error: str, cause: str) -> bool:  # noqa: ANN401 - a client
    """Send a message to a dead-letter queue, and tell whether it is there.

    Parameters
    ----------
    sqs
        The client.
    queue_url
        The dead-letter queue.
    record
        SQS's record of the message.
    error, cause
        Name and text of the error, for the attributes ``Error`` and ``Cause``.
    """
    said = {"Error": error, "Cause": reason_of(cause)}
    try:
        sqs.send_message(
            QueueUrl=queue_url,
            MessageBody=record["body"],
            MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in said.items()},
        )
    except (BotoCoreError, ClientError):
        _log.exception("cannot send the dead letter of message %s", record["messageId"])
        return False
    return True
