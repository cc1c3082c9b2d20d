"""Walks over the pages of an Ogg file, to tell whether it is whole."""

from __future__ import annotations

from inference_runtime.errors import RejectItem

_HEADER = 27  # bytes of a page before its table of segments
_BEGINS, _ENDS = 2, 4  # flags of a page


def check_pages(data: bytes) -> None:
    """Reject a file that was cut off, or has several streams, of which one alone would be heard.

    See RFC 3533, section 6, on the page.

    Raises
    ------
    RejectItem
        If a page is cut off or missing, or there are several streams.
    """
    place, flags, streams = 0, 0, 0
    while place < len(data):
        if data[place : place + 4] != b"OggS":
            raise RejectItem(f"Ogg file is damaged: there is no page at byte {place:,}")
        table = place + _HEADER
        if table > len(data):
            raise RejectItem("Ogg file is truncated: its last page is cut off")
        flags = data[place + 5]
        streams += bool(flags & _BEGINS)
        segments = data[table : table + data[table - 1]]
        place = table + data[table - 1] + sum(segments)
    if place > len(data):
        raise RejectItem("Ogg file is truncated: its last page is cut off")
    if streams != 1:
        raise RejectItem(f"Ogg file has {streams} streams, expected 1")
    if not flags & _ENDS:
        raise RejectItem("Ogg file is truncated: its last page is missing")
