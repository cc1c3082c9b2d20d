"""Handler of the preprocessing function: reads objects and turns them into batches of model inputs.

Logs with the standard library: this is the first function that every object meets, and Powertools would add
50 to 90 ms to its cold start for a log format that Lambda has itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import MAX_CONNECTIONS, TIMEOUTS, BotocoreObjects, client, error_code
from inference_runtime.errors import MalformedMessageError, RejectItem, RetryableError, reason_of
from inference_runtime.inputs import InputSpec, check_inputs, group_by_shape
from inference_runtime.item import Item, message_id_of
from inference_runtime.logs import add_to_log_lines
from inference_runtime.stage import json_variable, load_stage, required
from inference_runtime.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from inference_runtime.tensor import Array

RESPONSE_LIMIT = 180_000
"""Most bytes of the response as JSON, of the 262,144 that a workflow state may hold; the results need the rest.

First answers of a cascade count too: they go where the response goes.
"""

_GONE = {
    "NoSuchKey": "object no longer exists",
    "NoSuchVersion": "object version no longer exists",
    "InvalidObjectState": "object is archived and cannot be read",
}

_log = logging.getLogger(__name__)


class _SupersededError(Exception):
    """The object was overwritten after this event; the overwrite has an event of its own."""


class _RetryError(Exception):
    """The object cannot be read now."""


add_to_log_lines(model_version=required("MODEL_VERSION"))
_s3: S3Client = client("s3")
_store = TensorStore(lambda: BotocoreObjects(_s3), required("WORK_BUCKET"))
_inputs = [InputSpec.from_json(spec) for spec in json_variable("MODEL_INPUTS", list)]
_max_bytes = int(os.environ.get("MAX_OBJECT_BYTES", str(64 * 1024 * 1024)))
_preprocess = load_stage()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Turn messages into model inputs.

    Parameters
    ----------
    event
        `{"messages": [{"message_id", "body"}]}`, or messages of the other forms that `Item.from_message` reads. In a
        cascade's second part a message has its `first` answer besides.
    context
        Unused.

    Returns
    -------
    dict
        `items` that get a row; `groups` of items with inputs of one shape, `[{"indices", "inputs": {name: tensor}}]`;
        `rejected` items, `[{"index", "reason"}]`; `retry`, the ids of messages to give back to the queue. Indices
        point into `items`. A message in none of them is done: a duplicate, or superseded by a newer object.
    """
    parsed, retry = _parse(event["messages"])
    items: list[Item] = []
    rejected: list[dict[str, Any]] = []
    scored: list[tuple[int, dict[str, Array]]] = []
    for item, read in _read_ahead(parsed):
        try:
            scored.append((len(items), check_inputs(_preprocess(read(), item), _inputs)))
        except _SupersededError:
            _log.info("superseded by a newer object: s3://%s/%s", item.bucket, item.key)
            continue
        except RejectItem as error:
            rejected.append({"index": len(items), "reason": reason_of(error)})
        except _RetryError as error:
            _log.error("cannot read s3://%s/%s, message %s: %s", item.bucket, item.key, item.message_id, error)
            retry.append(item.message_id)
            continue
        except Exception:
            _log.exception("preprocessing failed: s3://%s/%s, message %s", item.bucket, item.key, item.message_id)
            retry.append(item.message_id)
            continue
        items.append(item)
    response = {"items": [item.to_json() for item in items], "rejected": rejected, "retry": retry}
    first = {message_id_of(message): message["first"] for message in event["messages"] if message.get("first")}
    limit = RESPONSE_LIMIT - (len(json.dumps(first)) if first else 0)
    return _store.dump_groups(response, group_by_shape(scored), "inputs", limit)


def _parse(messages: object) -> tuple[list[Item], list[str]]:
    """Split messages into distinct items and the ids of those that describe none."""
    if not isinstance(messages, list):
        raise RetryableError(f"messages is {type(messages).__name__}, expected a list")
    items: dict[str, Item] = {}
    retry = []
    for message in messages:
        message_id = message_id_of(message)
        if message_id is None:
            # Nothing else could be given back to the queue one by one, and what is not given back is lost.
            raise RetryableError(f"a message has no message_id: {json.dumps(message):.500}")
        try:
            item = Item.from_message(message)
        except MalformedMessageError as error:
            _log.error("malformed message %s: %s", message_id, error)
            retry.append(message_id)
        else:
            items.setdefault(item.id, item)
    return list(items.values()), retry


def _read_ahead(items: list[Item]) -> Iterator[tuple[Item, Callable[[], bytes]]]:
    """Yield each item with a function that waits for its object; at most `MAX_CONNECTIONS` are in memory."""
    hanging = Event()
    with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
        waiting: deque[tuple[Item, Callable[[], bytes]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(_read, item, hanging).result))
            if len(waiting) == MAX_CONNECTIONS:
                yield waiting.popleft()
        yield from waiting


def _read(item: Item, hanging: Event) -> bytes:
    if item.size == 0:
        raise RejectItem("object is empty")
    if item.size > _max_bytes:
        raise RejectItem(f"object has {item.size:,} bytes, at most {_max_bytes:,} are read")
    if hanging.is_set():
        raise _RetryError("S3 did not answer to an earlier request of the batch")
    # Only the version that the event is about: what a later one holds is for the later event.
    which = {"VersionId": item.version_id} if item.version_id else {"IfMatch": f'"{item.etag}"'}
    try:
        return _s3.get_object(Bucket=item.bucket, Key=item.key, **which)["Body"].read()  # type: ignore[arg-type]
    except TIMEOUTS as error:
        hanging.set()
        raise _RetryError(str(error)) from error
    except (BotoCoreError, ClientError) as error:
        code = error_code(error)
        if code in {"PreconditionFailed", "412"}:
            raise _SupersededError from error
        if code in _GONE:
            raise RejectItem(_GONE[code]) from error
        raise _RetryError(str(error)) from error
