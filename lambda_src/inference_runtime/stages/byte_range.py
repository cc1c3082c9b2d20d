"""An item that is part of an object: where its bytes are, and how the preprocessing gets them."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from inference_runtime.errors import MalformedMessageError, RejectItem

DEFLATE = "deflate"

_RAW = -zlib.MAX_WBITS
"""The window of a stream without a header, as members of a zip have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Bytes of an object that are one item.

    Attributes
    ----------
    bucket, key
        The object.
    version, etag
        The version of the object; without one, its entity tag. With neither, the object is never overwritten.
    start, end
        The first byte, and the one after the last, from 0.
    size
        Bytes of the item itself, which are more if they are compressed.
    compression
        ``"deflate"``, or None.
    crc32
        The checksum of the item's bytes; None if there is none.
    header
        A text to put in front of the bytes, such as the first line of a CSV file.
    charset
        Python's name of the encoding of the bytes, if they are not UTF-8 already: the item is given as UTF-8.
    reject
        Why the item can never be read; None if it can.
    """

    bucket: str
    key: str
    version: str | None = None
    etag: str | None = None
    start: int
    end: int
    size: int
    compression: str | None = None
    crc32: int | None = None
    header: str = ""
    charset: str | None = None
    reject: str | None = None

    @classmethod
    def from_json(cls, value: object) -> ByteRange:
        """Read what `to_json` wrote.

        Raises
        ------
        MalformedMessageError
            If it is not such a range.
        """
        try:
            found = cls(**value)  # type: ignore[arg-type]
        except TypeError as error:
            raise MalformedMessageError(f"item.range is {value!r:.200}, expected a range of bytes: {error}") from error
        numbers = (found.start, found.end, found.size, found.crc32 or 0)
        texts = (found.bucket, found.key, found.header)
        others = (found.version, found.etag, found.compression, found.charset, found.reject)
        if not (
            all(type(number) is int and number >= 0 for number in numbers)
            and found.start <= found.end
            and all(isinstance(text, str) for text in texts)
            and all(text is None or isinstance(text, str) for text in others)
            and found.compression in {None, DEFLATE}
        ):
            raise MalformedMessageError(f"item.range is {value!r:.200}, expected a range of bytes")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the attributes that say something as members."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @property
    def identity(self) -> str:
        """The SHA-256 of the range, in hex: another range, or version of the object, has another."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def most_bytes(self) -> int:
        """The bytes that reading takes at most; 0 if the item is empty."""
        return max(self.size, self.end - self.start) + len(self.header.encode()) if self.size else 0

    def check(self) -> None:
        """Refuse an item that can never be read.

        Raises
        ------
        RejectItem
            With the reason.
        """
        if self.reject is not None:
            raise RejectItem(self.reject)
        if self.size and self.start >= self.end:  # S3 answers such a range with the whole object
            raise RejectItem(f"object has no bytes of the item, expected {self.size:,} once inflated")

    def request(self) -> dict[str, str]:
        """Return the arguments of a request to S3 for the bytes."""
        which = {"VersionId": self.version} if self.version else {"IfMatch": f'"{self.etag}"'} if self.etag else {}
        return {"Bucket": self.bucket, "Key": self.key, "Range": f"bytes={self.start}-{self.end - 1}", **which}

    def content(self, data: bytes) -> bytes:
        """Return the item of the bytes that S3 gave.

        Raises
        ------
        RejectItem
            If they are not what the range says: a zip bomb inflates to no more than it says.
        """
        if len(data) != self.end - self.start:
            raise RejectItem(f"object has {len(data):,} bytes at {self.start:,}, expected {self.end - self.start:,}")
        if self.compression == DEFLATE:
            data = _inflated(data, self.size)
        if self.crc32 is not None and zlib.crc32(data) != self.crc32:
            raise RejectItem("content does not match its checksum")
        return self.header.encode() + utf8(data, self.charset)


def utf8(data: bytes, charset: str | None) -> bytes:
    """Return a text of an encoding as UTF-8, or as it is if it is not a text of that encoding."""
    if charset is None:
        return data
    try:
        return data.decode(charset).encode()
    except UnicodeDecodeError:
        return data


def _inflated(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(_RAW)
    try:
        found = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise RejectItem(f"content cannot be inflated: {error}") from error
    if len(found) != size or not inflater.eof:
        more = "more" if len(found) > size else f"{len(found):,}"
        raise RejectItem(f"content inflates to {more} bytes, expected {size:,}")
    return found
