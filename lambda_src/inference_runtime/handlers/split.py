"""Handler of the function that takes objects with many items apart.

It is invoked with messages of the queue of objects, and by the state machine with a chunk of a large object.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client
from inference_runtime.dead_letters import send_dead_letter
from inference_runtime.environment import json_variable, required
from inference_runtime.errors import LittleTimeError, MalformedMessageError, RetryableError
from inference_runtime.lifecycle import answers_warming
from inference_runtime.splitting.errors import CorruptObjectError, ObjectGoneError, SupersededError, TooLargeError
from inference_runtime.splitting.object_writer import ObjectWriter
from inference_runtime.splitting.open_format import open_format
from inference_runtime.splitting.planning import plan
from inference_runtime.splitting.source import Source
from inference_runtime.splitting.splitter import Splitter, Task
from inference_runtime.splitting.workflow import Workflow
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from inference_runtime.splitting.formats import Chunk

SPLITS = "splits"
"""Where lists of chunks and names of items are, in the trigger's bucket."""

CHUNK_BYTES = 16 * 1024**2

_MOST_CHUNKS = 500
"""Chunks of an object, unless its items are small: the answers of all must fit a state of Step Functions."""

_RESERVE, _MOST_RESERVE_SECONDS = 0.1, 30.0
"""The share of an invocation's time that is kept, and its limit: to send what was begun, and to hand on the rest."""

_MOST_DEATHS = 3
"""How often as many deliveries as may fail an object gets, before it is taken to kill the function. Deliveries count
that Lambda throttled, and these say nothing of the object."""

_PERMANENT = (MalformedMessageError, CorruptObjectError, ObjectGoneError, TooLargeError)

_bucket = required("BUCKET")
_chunk_bytes = int(os.environ.get("CHUNK_BYTES", CHUNK_BYTES))
_always_workflow = os.environ.get("ALWAYS_WORKFLOW") == "1"
_versions: list[str] = json_variable("ROW_VERSIONS", list) if "ROW_VERSIONS" in os.environ else []
_inline_bytes = int(required("INLINE_BYTES"))
_form = open_format(json_variable("ITEMS_FORMAT", dict), inline_bytes=_inline_bytes)
_s3: S3Client = client("s3")
_sqs = client("sqs")
_machine = os.environ.get("STATE_MACHINE_ARN", "")
_workflow = Workflow(client("stepfunctions"), _machine) if _machine else None
_splitter = Splitter(
    s3=_s3, sqs=_sqs, form=_form, queue_url=required("ITEMS_QUEUE_URL"), bucket=_bucket, inline_bytes=_inline_bytes
)
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Send the items of objects, or of a chunk of one, to their queue.

    Parameters
    ----------
    event
        SQS's: `{"Records": [{"messageId", "body", "attributes"}]}`. A body is an event of S3, or a chunk. Or a chunk
        itself: `{"chunk": ...}`, see `Task`.
    context
        Lambda's: when the time runs low, the rest is left to another invocation.

    Returns
    -------
    dict
        `{"batchItemFailures": [{"itemIdentifier"}]}`, the messages to deliver again. Or, for a chunk, the number of its
        `items` that were sent, and the `rest`, which is null or another such event. It says whether the object is
        `superseded`: it was overwritten, and nothing was sent.

    Raises
    ------
    CorruptObjectError, ObjectGoneError
        The chunk cannot be read, however often it is tried.
    RetryableError
        S3 or SQS is out of order.
    LittleTimeError
        The time is over before one item was sent.
    """
    is_late = _clock(context)
    if "Records" not in event:
        try:
            sent, rest = _split(Task.from_json(event["chunk"]), is_late)
        except SupersededError as error:
            _log.info("superseded by a newer object: %s", error)
            return {"items": 0, "rest": None, "superseded": True}
        rest_event = None if rest is None else {"chunk": rest.to_json()}
        return {"items": sent, "rest": rest_event, "superseded": False}
    back = [record["messageId"] for record in event["Records"] if not _is_done(record, is_late)]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in back]}


def _clock(context: object) -> Callable[[], bool]:
    """Return a function that tells whether the time is nearly over."""
    deadline = Deadline(context)
    whole = deadline.left()
    reserve = min(_RESERVE * whole, _MOST_RESERVE_SECONDS)
    return lambda: deadline.left() < reserve


def _is_done(record: dict[str, Any], is_late: Callable[[], bool]) -> bool:
    """Do what a message asks for, and tell whether nothing is left to do."""
    times, most = int(record["attributes"]["ApproximateReceiveCount"]), int(required("MAX_RECEIVE_COUNT"))
    if times > _MOST_DEATHS * most:
        return _is_buried(record, RetryableError(f"the message was delivered {times} times, and never answered"))
    try:
        _do(record, is_late)
    except SupersededError as error:
        _log.info("superseded by a newer object: %s", error)
    except RetryableError:
        _log.exception("an object is left to another try: message %s", record["messageId"])
        return False
    except Exception as error:
        _log.exception("cannot take an object apart: message %s", record["messageId"])
        return (isinstance(error, _PERMANENT) or times >= most) and _is_buried(record, error)
    return True


def _is_buried(record: dict[str, Any], error: Exception) -> bool:
    queue_url = required("DEAD_LETTER_QUEUE")
    return send_dead_letter(_sqs, queue_url, record, error=type(error).__name__, cause=str(error))


def _do(record: dict[str, Any], is_late: Callable[[], bool]) -> None:
    body = json.loads(record["body"]) if record["body"].startswith('{"chunk":') else {}
    if "chunk" in body:
        _send(Task.from_json(body["chunk"]), is_late)
        return
    item = Item.from_message({"message_id": record["messageId"], "body": record["body"]})
    source = Source(_s3, item)
    chunks = _planned(source, item, is_late)
    first = next(chunks, None)
    second = next(chunks, None)
    if first is None:
        _log.info("%s has no items", item.location)
    elif second is None and not _always_workflow:
        _send(Task(item=item, chunk=first), is_late)
    elif _workflow is None:
        for chunk in _joined(first, second, chunks):
            _put_back(Task(item=item, chunk=chunk))
    else:
        _start(_workflow, item, record["body"], _joined(first, second, chunks))


def _planned(source: Source, item: Item, is_late: Callable[[], bool]) -> Iterator[Chunk]:
    for chunk in plan(_form, source, chunk_bytes=max(_chunk_bytes, source.size // _MOST_CHUNKS)):
        yield chunk
        if is_late():
            raise TooLargeError(
                f"{item.location} must be planned within the time of the function, got {item.size:,} bytes; split it"
            )


def _joined(first: Chunk, second: Chunk | None, others: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    if second is not None:
        yield second
    yield from others


def _start(workflow: Workflow, item: Item, message: str, chunks: Iterator[Chunk]) -> None:
    """Write the list of the chunks, and start the state machine."""
    folder = f"{SPLITS}/{item.id}/{secrets.token_hex(8)}"
    key, count = f"{folder}/chunks.jsonl", 0
    names = f"{folder}/names/" if _always_workflow else None
    with ObjectWriter(_s3, _bucket, key) as writer:
        for chunk in chunks:
            task = Task(item=item, chunk=chunk, names=names)
            writer.write(json.dumps({"chunk": task.to_json()}).encode() + b"\n")
            count += 1
    chunk_list = {"bucket": _bucket, "key": key, "count": count}
    given = {
        "object": item.to_json(),
        "message": message,
        "chunks": chunk_list,
        "names": names,
        "versions": _versions,  # another model may be deployed before all items have rows
    }
    started = workflow.start(item, given)
    _log.info("%s has %s chunks%s", item.location, count, "" if started else ": another event of it was first")


def _send(task: Task, is_late: Callable[[], bool]) -> None:
    """Send the items of a task, and leave the rest to another message."""
    _, rest = _split(task, is_late)
    if rest is not None:
        _put_back(rest)


def _split(task: Task, is_late: Callable[[], bool]) -> tuple[int, Task | None]:
    sent, rest = _splitter.split(task, is_late)
    _log.info("sent %s items of %s from number %s on", sent, task.item.location, task.chunk.number + task.skip)
    if rest == task:
        raise LittleTimeError(f"{task.item.location}: the time was over before an item was sent")
    return sent, rest


def _put_back(task: Task) -> None:
    """Put a task into the queue of objects."""
    body = json.dumps({"chunk": task.to_json()})
    try:
        _sqs.send_message(QueueUrl=required("OBJECTS_QUEUE_URL"), MessageBody=body)
    except (BotoCoreError, ClientError) as error:
        raise RetryableError(f"cannot send the rest of {task.item.location}: {error}") from error
