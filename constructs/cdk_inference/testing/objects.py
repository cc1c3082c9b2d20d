"""The object that is scored, as events, S3 and Lambda show it to the runtime."""

from __future__ import annotations

import hashlib
import io
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdk_inference.errors import PropError
from inference_runtime.stages.item import Item

MESSAGE_ID = "message"

DEFAULT_TIMEOUT = 30.0
"""Seconds that a stage has: the default of `InferencePipeline`."""


class StoredObject:
    """An object in the inbox of a pipeline.

    Parameters
    ----------
    data
        Its bytes, or the path of a file with them.
    key
        Its key. Default: the name of the file, or ``object``.
    bucket
        The name of the inbox.

    Raises
    ------
    PropError
        There is no such file, or the data are neither bytes nor a path.
    """

    def __init__(self, data: bytes | Path, *, key: str | None, bucket: str) -> None:
        if not isinstance(data, bytes | Path):
            raise PropError(f"data must be bytes or a pathlib.Path, got {data!r:.100}")
        if isinstance(data, Path) and not data.is_file():
            raise PropError(f"data must be an existing file, got '{data}'; looked in {Path.cwd()}")
        self.data = data.read_bytes() if isinstance(data, Path) else data
        name = key if key is not None else data.name if isinstance(data, Path) else "object"
        entry = {
            "key": name,
            "size": len(self.data),
            "etag": hashlib.md5(self.data, usedforsecurity=False).hexdigest(),  # as S3 makes it
            "sequencer": "0",
        }
        self.message = {
            "message_id": MESSAGE_ID,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "detail": {"bucket": {"name": bucket}, "object": entry},
        }

    @property
    def item(self) -> Item:
        """The item that the runtime reads from the event."""
        return Item.from_message(self.message)

    def get_object(self, **request: str) -> dict[str, Any]:  # noqa: ARG002 - there is one object
        """Return the object, as a client of S3 does."""
        return {"Body": io.BytesIO(self.data)}


class Invocation:
    """The context that Lambda gives a handler, of an invocation that begins now.

    Parameters
    ----------
    seconds
        That it may take.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that are left."""
        return max(0, int((self._end - time.monotonic()) * 1000))
