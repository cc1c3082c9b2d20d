"""Reads objects and turns them into model inputs: what the preprocessing function does, and a fused one too."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import TIMEOUTS, error_code
from inference_runtime.environment import json_variable
from inference_runtime.errors import MalformedMessageError, RejectItem, RetryableError, reason_of
from inference_runtime.inputs import InputSpec, check_inputs
from inference_runtime.item import Item, message_id_of
from inference_runtime.stage import load_stage
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from mypy_boto3_s3 import S3Client

    from inference_runtime.tensor import Array

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


@dataclass
class Batch:
    """What became of a batch of messages so far.

    Attributes
    ----------
    items
        Those that get a row.
    rejected
        `[{"index", "reason"}]`; indices point into `items`.
    retry
        Ids of messages to give back to the queue, because a service was unavailable: the items are not at fault.
    failed
        `[{"message_id", "error", "cause"}]`: messages that made preprocessing fail, and an error's name and text.
    unfinished
        Ids of messages that were not begun, or not given enough time, because the invocation's time ran low.
    """

    items: list[Item] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    retry: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def fail(self, message_id: str, error: BaseException) -> None:
        """Note that a message made preprocessing fail, and how."""
        self.failed.append({"message_id": message_id, "error": type(error).__name__, "cause": reason_of(error)})


class Preprocessor:
    """Reads objects and turns them into model inputs.

    Parameters
    ----------
    s3
        Thread-safe client.
    function
        The user's: `function(data, item) -> array`, or a dict of arrays.
    inputs
        What the model expects.
    max_bytes
        Larger objects are rejected before they are read.
    """

    def __init__(
        self, *, s3: S3Client, function: Callable[[bytes, Item], object], inputs: Sequence[InputSpec], max_bytes: int
    ) -> None:
        self._s3 = s3
        self._function = function
        self._inputs = inputs
        self._max_bytes = max_bytes

    @classmethod
    def from_environment(cls, s3: S3Client, prefix: str = "STAGE") -> Preprocessor:
        """Return what the function's environment describes.

        Parameters
        ----------
        s3
            Thread-safe client.
        prefix
            What the names of the user code's variables begin with, see `load_stage`.

        Raises
        ------
        StageError
            If it is configured wrongly.
        """
        return cls(
            s3=s3,
            inputs=[InputSpec.from_json(spec) for spec in json_variable("MODEL_INPUTS", list)],
            max_bytes=int(os.environ.get("MAX_OBJECT_BYTES", str(64 * 1024 * 1024))),
            function=load_stage(prefix),
        )

    def inputs(self, messages: object, batch: Batch) -> Generator[tuple[int, dict[str, Array]]]:
        """Yield index and inputs of each item that can be scored, as they are ready.

        Parameters
        ----------
        messages
            As those of the preprocessing function's event.
        batch
            Is filled meanwhile: complete when all is yielded. A message that is then neither in there nor yielded is
            done: a duplicate, or superseded by a newer object.

        Raises
        ------
        RetryableError
            If messages cannot be told apart.
        """
        items = _parse(messages, batch)
        for item, read in self._read_ahead(items):
            index = len(batch.items)
            try:
                inputs = check_inputs(self._function(read(), item), self._inputs)
            except _SupersededError:
                _log.info("superseded by a newer object: s3://%s/%s", item.bucket, item.key)
            except RejectItem as error:
                batch.rejected.append({"index": index, "reason": reason_of(error)})
                batch.items.append(item)
            except _RetryError as error:
                _log.error("cannot read s3://%s/%s, message %s: %s", item.bucket, item.key, item.message_id, error)
                batch.retry.append(item.message_id)
            except Exception as error:
                _log.exception("preprocessing failed: s3://%s/%s, message %s", item.bucket, item.key, item.message_id)
                batch.fail(item.message_id, error)
            else:
                batch.items.append(item)
                yield index, inputs

    def _read_ahead(self, items: list[Item]) -> Iterator[tuple[Item, Callable[[], bytes]]]:
        """Yield each item with a function that waits for its object; at most `MAX_CONNECTIONS` are in memory."""
        hanging = Event()
        with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
            waiting: deque[tuple[Item, Callable[[], bytes]]] = deque()
            for item in items:
                waiting.append((item, pool.submit(self._read, item, hanging).result))
                if len(waiting) == MAX_CONNECTIONS:
                    yield waiting.popleft()
            yield from waiting

    def _read(self, item: Item, hanging: Event) -> bytes:
        if item.size == 0:
            raise RejectItem("object is empty")
        if item.size > self._max_bytes:
            raise RejectItem(f"object has {item.size:,} bytes, at most {self._max_bytes:,} are read")
        if hanging.is_set():
            raise _RetryError("S3 did not answer to an earlier request of the batch")
        # Only the version that the event is about: what a later one holds is for the later event.
        which = {"VersionId": item.version_id} if item.version_id else {"IfMatch": f'"{item.etag}"'}
        try:
            return self._s3.get_object(Bucket=item.bucket, Key=item.key, **which)["Body"].read()  # type: ignore[arg-type]
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


def _parse(messages: object, batch: Batch) -> list[Item]:
    """Return the distinct items that messages describe; a message that describes none is noted as failed."""
    if not isinstance(messages, list):
        raise RetryableError(f"messages is {type(messages).__name__}, expected a list")
    items: dict[str, Item] = {}
    for message in messages:
        message_id = message_id_of(message)
        if message_id is None:
            # Nothing else could be given back to the queue one by one, and what is not given back is lost.
            raise RetryableError(f"a message has no message_id: {json.dumps(message):.500}")
        try:
            item = Item.from_message(message)
        except MalformedMessageError as error:
            _log.error("malformed message %s: %s", message_id, error)
            batch.fail(message_id, error)
        else:
            items.setdefault(item.id, item)
    return list(items.values())
