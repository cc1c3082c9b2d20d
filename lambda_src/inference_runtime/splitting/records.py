"""Takes bytes apart at the ends of records, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MOST = 1024**2
"""Bytes of a record that are kept; a longer one is found, but not looked at."""


class Record(NamedTuple):
    """A record: where it starts and ends, and its bytes if these are not too many."""

    start: int
    end: int
    data: bytes | None


def records(blocks: Iterable[bytes], start: int, ends: Callable[[bytes], bool]) -> Iterator[Record]:
    """Yield the records of an object, with what ends them.

    Parameters
    ----------
    blocks
        The bytes, in blocks of any sizes.
    start
        Where the first block starts.
    ends
        Is called with each piece, which is up to the end of a line or of a block. Returns whether a record ends there.
    """
    begun = at = start
    held: list[bytes] = []
    for piece in _pieces(blocks):
        at += len(piece)
        if at - begun <= MOST:
            held.append(piece)
        else:
            held.clear()
        if ends(piece):
            yield Record(begun, at, b"".join(held) if at - begun <= MOST else None)
            held.clear()
            begun = at
    if begun < at:
        yield Record(begun, at, b"".join(held) if at - begun <= MOST else None)


def _pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        first = 0
        while end := block.find(b"\n", first) + 1:
            yield block[first:end]
            first = end
        if first < len(block):
            yield block[first:]
