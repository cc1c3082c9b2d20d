"""Tells the formats of videos apart, and whether a file is whole: a decoder stops silently where one is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from inference_runtime.splitting.errors import CorruptObjectError

if TYPE_CHECKING:
    from inference_runtime.splitting.source import Source

_HEAD_BYTES = 1024
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_MOST_BOXES = 100
_LARGE_SIZE, _TO_THE_END = 1, 0
_GIF_TRAILER, _PADDING = b";", b"\0\r\n "


def video_format(source: Source) -> Literal["mp4", "matroska", "gif"]:
    """Return FFmpeg's name of the format of an object.

    Raises
    ------
    CorruptObjectError
        It is another format, or the end of the object is missing.
    """
    head = source.read(0, _HEAD_BYTES)
    if head.startswith(b"ftyp", 4):
        _check_boxes(source)
        return "mp4"
    if head.startswith(_EBML):
        _check_segment(source, head)
        return "matroska"
    if head.startswith(b"GIF8"):
        if not source.read(max(source.size - _HEAD_BYTES, 0), source.size).rstrip(_PADDING).endswith(_GIF_TRAILER):
            raise _cut_off("GIF")
        return "gif"
    raise CorruptObjectError(f"object must be an MP4, WebM or GIF file, got one that begins with {head[:8].hex()}")


def _check_boxes(source: Source) -> None:
    """Check the first outermost boxes of an MP4 file, of which only fragments are many: ISO/IEC 14496-12, 4.2."""
    at = 0
    for _ in range(_MOST_BOXES):
        head = source.read(at, at + 16)
        if not head:
            return
        size = int.from_bytes(head[:4])
        if size == _TO_THE_END:
            return
        if size == _LARGE_SIZE:
            size = int.from_bytes(head[8:])
        if size < 8 or at + size > source.size:  # noqa: PLR2004 - bytes of the head of a box
            raise _cut_off("MP4")
        at += size


def _check_segment(source: Source, head: bytes) -> None:
    """Check the size of the segment that has all of a WebM file but its header: RFC 8794, section 4."""
    size, start = _number(head, len(_EBML))
    at = start + (size or 0)
    if head.startswith(_SEGMENT, at):
        size, start = _number(head, at + len(_SEGMENT))
        if size is not None and start + size > source.size:
            raise _cut_off("WebM")


def _number(data: bytes, at: int) -> tuple[int | None, int]:
    """Return a number whose first bits say how many bytes it has, and where it ends; None is an unknown size."""
    length = 9 - data[at].bit_length() if at < len(data) else 1
    bits = 7 * length
    value = int.from_bytes(data[at : at + length]) & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value, at + length


def _cut_off(name: str) -> CorruptObjectError:
    return CorruptObjectError(f"{name} file must be whole, got one that is cut off or damaged")
