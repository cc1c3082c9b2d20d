"""Motion JPEG: every picture of a video is an item.

The pictures are whole JPEGs, with anything between them. So they may follow each other as in a raw stream, or be in an
AVI file or a multipart message. ITU-T T.81, annex B, has the form of a JPEG.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Entry, Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inference_runtime.splitting.source import Source

_START = re.compile(rb"\xff\xd8\xff[\x01\xc0-\xd7\xda-\xfe]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_KEPT = 3  # bytes of a block in which a pattern may begin that ends in the next
_MARK, _START_OF_IMAGE, _END_OF_IMAGE, _SCAN = 0xFF, 0xD8, 0xD9, 0xDA
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_LENGTH = 2
_MOST_SEGMENTS = 5_000
"""Segments and scans of a JPEG at most. The stage for images refuses more; cameras write a dozen."""


class Frame(NamedTuple):
    """A picture: where it starts and ends, and whether its end is there."""

    start: int
    end: int
    whole: bool


class JpegFrames:
    """Videos of Motion JPEG.

    The number of an item is that of its frame. Damaged frames do not count. One that the end of the object cuts off is
    an item that is rejected.

    Parameters
    ----------
    every
        One of so many frames is an item, beginning with the first.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return True."""
        return True

    def head(self, source: Source) -> None:
        """Return nothing: a frame says all."""

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the frames."""
        for number, frame in self._frames(source, Chunk()):
            yield Entry(number, None, frame.end - frame.start, frame.start)

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the frames of a chunk."""
        for number, frame in self._frames(source, chunk):
            reason = None if frame.whole else "frame is cut off at the end of the object"
            size = frame.end - frame.start
            yield Found(number=number, range=source.range(frame.start, frame.end, size=size, reject=reason))

    def _frames(self, source: Source, chunk: Chunk) -> Iterator[tuple[int, Frame]]:
        """Yield the frames of a chunk that are items, and their numbers.

        Raises
        ------
        CorruptObjectError
            The object has no frame.
        """
        end = source.size if chunk.end is None else chunk.end
        number = chunk.number - 1
        for number, frame in enumerate(frames(source.blocks(chunk.start, end), chunk.start), chunk.number):
            # A frame that a chunk cuts off, and not the object, is a damaged one before a sound one.
            if (number - 1) % self._every == 0 and (frame.whole or chunk.end is None):
                yield number, frame
        if number < chunk.number:
            raise CorruptObjectError("object must be Motion JPEG, got no JPEG in it")


def frames(blocks: Iterable[bytes], start: int = 0) -> Iterator[Frame]:
    """Yield the JPEGs in some bytes, in one pass and the memory of a block; damaged ones are left out.

    Parameters
    ----------
    blocks
        The bytes, in blocks of any sizes.
    start
        Where the first block starts.
    """
    stream = _Stream(blocks, start)
    while stream.find(_START):
        begun = stream.at
        whole = _skip_image(stream)
        if whole is not None:
            yield Frame(begun, stream.at, whole)


def _skip_image(stream: _Stream) -> bool | None:
    """Go behind a JPEG, and tell whether it is whole or cut off; None if it is damaged, where it is left."""
    stream.skip(_LENGTH)
    segments = 0
    while len(marker := stream.peek(_LENGTH)) == _LENGTH:
        segments += 1
        if marker[0] != _MARK or marker[1] == _START_OF_IMAGE or segments > _MOST_SEGMENTS:
            return None
        if marker[1] == _MARK:  # a fill byte
            stream.skip(1)
            continue
        stream.skip(_LENGTH)
        if marker[1] == _END_OF_IMAGE:
            return True
        if marker[1] in _WITHOUT_LENGTH:
            continue
        if len(length := stream.peek(_LENGTH)) < _LENGTH:
            break
        if int.from_bytes(length) < _LENGTH:
            return None
        stream.skip(int.from_bytes(length))
        if marker[1] == _SCAN and not stream.find(_AFTER_SCAN):
            break
    stream.skip(_LENGTH)
    return False


class _Stream:
    """Bytes that come in blocks, read forward."""

    def __init__(self, blocks: Iterable[bytes], start: int) -> None:
        self._blocks = iter(blocks)
        self._held = b""
        self._first = 0
        self.at = start

    def peek(self, count: int) -> bytes:
        """Return the next bytes, or fewer at the end."""
        while len(self._held) - self._first < count and self._more():
            pass
        return self._held[self._first : self._first + count]

    def skip(self, count: int) -> None:
        """Go forward, at most to the end."""
        while count > (there := len(self._held) - self._first):
            self._go(there)
            count -= there
            if not self._more():
                return
        self._go(count)

    def find(self, pattern: re.Pattern[bytes]) -> bool:
        """Go to where a pattern is; to the end if it is nowhere."""
        while (found := pattern.search(self._held, self._first)) is None:
            self._go(max(len(self._held) - self._first - _KEPT, 0))
            if not self._more():
                self._go(len(self._held) - self._first)
                return False
        self._go(found.start() - self._first)
        return True

    def _go(self, count: int) -> None:
        self._first += count
        self.at += count

    def _more(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        self._held, self._first = self._held[self._first :] + block, 0
        return True
