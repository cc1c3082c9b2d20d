"""Handler of a function that takes messages from a queue itself, by an event source mapping, without a workflow.

It does what a workflow does around the fused function, so that each message ends as one row or one dead letter. When
an invocation dies, its whole batch comes back. Then each message is scored alone, in a separate process, so that the
one which kills it is found.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.dead_letters import send_dead_letter
from inference_runtime.environment import required
from inference_runtime.handlers import fused
from inference_runtime.json_path import text_at
from inference_runtime.lifecycle import answers_warming
from inference_runtime.stages.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEST_EVENT = "s3:TestEvent"

_dead_letter_queue = required("DEAD_LETTER_QUEUE")
_max_receive_count = int(required("MAX_RECEIVE_COUNT"))
_sqs = client("sqs")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write a row for each message.

    Parameters
    ----------
    event
        SQS's: `{"Records": [{"messageId", "body", "attributes"}]}`. A body is an event of S3, from its own
        notifications or from EventBridge, or a payload where the environment says what its id is. All other events are
        the fused handler's, such as requests of API Gateway.
    context
        Lambda's.

    Returns
    -------
    dict
        `{"batchItemFailures": [{"itemIdentifier"}]}`: the messages to deliver again.
    """
    if "Records" not in event:
        return fused.handler(event, context)
    deadline = Deadline(context)
    records = {record["messageId"]: record for record in event["Records"] if not _is_test(record["body"])}
    back: list[str] = []
    failures: list[dict[str, str]] = []
    for answer in _answers(list(records.values()), deadline, context):
        back += [*answer.get("retry", ()), *answer.get("unfinished", ())]
        failures += answer.get("failures", ())
    back += [one["message_id"] for one in failures if not _is_buried(one, records[one["message_id"]])]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in back]}


def _answers(records: list[dict[str, Any]], deadline: Deadline, context: object) -> Iterator[dict[str, Any]]:
    """Yield the answers of the fused handler: for all new messages, and for each that came back."""
    whole = deadline.left()
    new = [_message(record) for record in records if _times(record) == 1]
    if new:
        yield fused.handler({"messages": new}, context)
    again = [_message(record) for record in records if _times(record) > 1]
    if again:
        from inference_runtime.stages.alone import scored_alone  # noqa: PLC0415 - hardly ever needed

        yield from scored_alone(again, deadline, whole)


def _is_test(body: str) -> bool:
    """Tell whether S3 only tried whether it may send, as it does when notifications are configured."""
    if _TEST_EVENT not in body:
        return False
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("Event") == _TEST_EVENT


def _times(record: dict[str, Any]) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])


def _message(record: dict[str, Any]) -> dict[str, Any]:
    message = {"message_id": record["messageId"], "body": record["body"]}
    if "ITEM_ID" in os.environ:
        sent = record["attributes"]["SentTimestamp"]
        message["item"] = {
            "source": record["eventSourceARN"],
            "id": _at(os.environ["ITEM_ID"], record["body"], record["messageId"]),
            "sequence": _at(os.environ["ITEM_SEQUENCE"], record["body"], sent),
            "time": sent,
        }
    return message


def _at(path: str, body: str, otherwise: str) -> str:
    return text_at(body, path) if path else otherwise


def _is_buried(failure: dict[str, str], record: dict[str, Any]) -> bool:
    """Send a message that failed often enough to the dead-letter queue, and tell whether it is there."""
    if _times(record) < _max_receive_count:
        return False
    error, cause = failure["error"], failure["cause"]
    return send_dead_letter(_sqs, _dead_letter_queue, record, error=error, cause=cause)
