"""Sends the items of an object, or of a chunk of it, to the queue of items."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Restart
from inference_runtime.splitting.message_text import is_message_text, message_json
from inference_runtime.splitting.names import Names
from inference_runtime.splitting.object_writer import ObjectWriter
from inference_runtime.splitting.sender import Sender
from inference_runtime.splitting.source import Source
from inference_runtime.stages.byte_range import ByteRange
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from inference_runtime.splitting.formats import Format, Found

LARGE_ITEMS = "items"
"""Where items go in the trigger's bucket that are too large for a message, and have no range of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A chunk of an object whose items are to be sent.

    Attributes
    ----------
    item
        The object.
    chunk
        The chunk.
    skip
        How many of its items were sent already.
    names
        Where the names of the items are written, as the beginning of a key; None if nobody asks for them.
    """

    item: Item
    chunk: Chunk
    skip: int = 0
    names: str | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Task:
        """Read what `to_json` wrote."""
        return cls(**{**value, "item": Item.from_json(value["item"]), "chunk": Chunk(**value["chunk"])})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the attributes as members."""
        chunk = asdict(self.chunk)
        return {"item": self.item.to_json(), "chunk": chunk, "skip": self.skip, "names": self.names}


class Splitter:
    """Sends items.

    Parameters
    ----------
    s3, sqs
        Thread-safe clients.
    form
        The format of the objects.
    queue_url
        The queue of items.
    bucket
        The trigger's own bucket, for large items and names.
    inline_bytes
        Bytes of a message at most: larger items are sent by reference.
    """

    def __init__(
        self,
        *,
        s3: S3Client,
        sqs: Any,  # noqa: ANN401 - a client
        form: Format,
        queue_url: str,
        bucket: str,
        inline_bytes: int,
    ) -> None:
        self._s3 = s3
        self._sqs = sqs
        self._form = form
        self._queue_url = queue_url
        self._bucket = bucket
        self._inline_bytes = inline_bytes

    def split(self, task: Task, is_late: Callable[[], bool]) -> tuple[int, Task | None]:
        """Send the items of a task.

        Parameters
        ----------
        task
            The items to send.
        is_late
            Returns whether the time is nearly over: the rest is then another task.

        Returns
        -------
        tuple
            The number of items that were sent, and the task of the rest, if there is one.

        Raises
        ------
        CorruptObjectError, ObjectGoneError, SupersededError
            The object cannot be read. Items before the damage may have been sent.
        RetryableError
            S3 or SQS is out of order.
        """
        source = Source(self._s3, task.item)
        namer = Names(task.item.key, task.chunk.by_number)
        sent = number = 0
        chunk, skip = task.chunk, task.skip
        with ExitStack() as stack:
            sender = stack.enter_context(Sender(self._sqs, self._queue_url))
            names = self._names(task, stack)
            for found in self._form.items(source, task.chunk):
                if isinstance(found, Restart):
                    chunk, number, skip = found.chunk, 0, max(skip - number, 0)
                    if is_late():
                        return sent, replace(task, chunk=chunk, skip=skip)
                    continue
                name = namer.name(found.number, found.id)
                number += 1
                if number <= skip:
                    continue
                if is_late():
                    return sent, replace(task, chunk=chunk, skip=number - 1)
                sender.send(self._message(task.item, name, found))
                if names is not None:
                    names.write(json.dumps(name).encode() + b"\n")
                sent += 1
        return sent, None

    def _names(self, task: Task, stack: ExitStack) -> ObjectWriter | None:
        if task.names is None:
            return None
        # Keys sort as the items do.
        key = f"{task.names}{task.chunk.number:012d}-{task.skip:012d}.jsonl"
        return stack.enter_context(ObjectWriter(self._s3, self._bucket, key))

    def _message(self, item: Item, name: str, found: Found) -> str:
        """Return the message of an item, in the form that `Item.from_message` reads.

        Raises
        ------
        CorruptObjectError
            Even a reference to the item is too large: batches of such messages would be too large for the workflow.
        """
        said = {
            "source": f"arn:aws:s3:::{item.bucket}",
            "id": name,
            "sequence": str(int(item.sequencer, 16)),
            "time": item.event_time,
        }
        if found.data is not None and len(found.data) <= self._inline_bytes:
            body = message_json(_with_payload(said, found.data))
            if len(body.encode()) <= self._inline_bytes:
                return body
        part = found.range or self._copied(item, found)
        body = message_json({"item": {**said, "range": part.to_json()}})
        if (size := len(body.encode())) > self._inline_bytes:
            raise CorruptObjectError(
                f"names and header must fit messages of {self._inline_bytes:,} bytes, got {size:,} for an item; use "
                "smaller batches, or shorter names"
            )
        return body

    def _copied(self, item: Item, found: Found) -> ByteRange:
        """Write a large item that has no range into the trigger's bucket, and return where it is."""
        key = f"{LARGE_ITEMS}/{item.id}/{found.number}"
        blocks: Iterator[bytes] = chain([found.data] if found.data is not None else [], found.blocks or ())
        with ObjectWriter(self._s3, self._bucket, key) as writer:
            for block in blocks:
                writer.write(block)
        return ByteRange(bucket=self._bucket, key=key, start=0, end=writer.size, size=writer.size)


def _with_payload(said: dict[str, str], data: bytes) -> dict[str, Any]:
    item = {**said, "member": "body"}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or not is_message_text(text):
        return {"item": {**item, "encoding": "base64"}, "body": b64encode(data).decode()}
    return {"item": item, "body": text}
