"""Reads parts of one version of an object, in bounded memory."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import error_code
from inference_runtime.errors import RetryableError
from inference_runtime.splitting.errors import CorruptObjectError, ObjectGoneError, SupersededError
from inference_runtime.stages.byte_range import ByteRange
from inference_runtime.timeouts import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer
    from mypy_boto3_s3 import S3Client

    from inference_runtime.stages.item import Item

BLOCK = 4 * 1024**2
"""Bytes that are read at a time from an object that is read from end to end."""

PAGE = 256 * 1024
"""Bytes that are read at a time from an object in which most is skipped."""

_GONE = {
    "NoSuchKey": "object no longer exists",
    "NoSuchVersion": "object version no longer exists",
    "InvalidObjectState": "object is archived and cannot be read",
}
_log = logging.getLogger(__name__)


class Source:
    """One version of an object.

    Parameters
    ----------
    s3
        Thread-safe client.
    item
        The object, as its event describes it.
    """

    def __init__(self, s3: S3Client, item: Item) -> None:
        self._s3 = s3
        self._item = item
        self.size = item.size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, or to the end of the object.

        Raises
        ------
        SupersededError, ObjectGoneError
            The object is no longer there.
        RetryableError
            S3 does not give the bytes now.
        """
        end = min(end, self.size)
        if start >= end:
            return b""
        request = self.range(start, end, size=end - start).request()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._s3.get_object(**request)["Body"].read()  # type: ignore[arg-type]
            except (BotoCoreError, ClientError) as error:
                code = error_code(error)
                if code in {"PreconditionFailed", "412"}:
                    raise SupersededError(self._item.location) from error
                if code in _GONE:
                    raise ObjectGoneError(_GONE[code]) from error
                if code in {"InvalidRange", "416"}:
                    raise CorruptObjectError(f"object must have the {self.size:,} bytes of its event") from error
                # A connection that breaks while the bytes arrive is not tried again by botocore.
                if isinstance(error, ClientError) or attempt == ATTEMPTS:
                    raise RetryableError(f"cannot read {self._item.location}: {error}") from error
                _log.warning("reading %s again: %s", self._item.location, error)
        raise AssertionError

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end` in blocks."""
        for first in range(start, min(end, self.size), BLOCK):
            yield self.read(first, min(first + BLOCK, end))

    def range(self, start: int, end: int, *, size: int, **more: Any) -> ByteRange:
        """Return how a message refers to bytes of the object; `more` are further attributes of `ByteRange`."""
        item = self._item
        return ByteRange(
            bucket=item.bucket,
            key=item.key,
            version=item.version_id,
            etag=None if item.version_id else item.etag,
            start=start,
            end=end,
            size=size,
            **more,
        )


class SourceFile(io.RawIOBase):
    """An object as a file that can be read and sought; a page of it is in memory.

    Parameters
    ----------
    source
        The object.
    most
        Bytes that one call may read. A file that claims a longer header is refused.
    """

    def __init__(self, source: Source, *, most: int) -> None:
        super().__init__()
        self._source = source
        self._most = most
        self._at = 0
        self._page = b""
        self._page_start = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read as many bytes as fit into a buffer, and return how many there were."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or fewer at the end of the object.

        Raises
        ------
        CorruptObjectError
            The bytes are more than one call may read.
        """
        left = max(self._source.size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self._most:
            raise CorruptObjectError(f"a header must be at most {self._most:,} bytes, got {wanted:,}")
        data = self._from_page(wanted)
        if len(data) < wanted:
            start = self._at + len(data)
            if wanted >= PAGE:
                data += self._source.read(start, start + wanted - len(data))
            else:
                self._page, self._page_start = self._source.read(start, start + PAGE), start
                data += self._page[: wanted - len(data)]
        self._at += len(data)
        return data

    def _from_page(self, wanted: int) -> bytes:
        offset = self._at - self._page_start
        return self._page[offset : offset + wanted] if 0 <= offset < len(self._page) else b""
