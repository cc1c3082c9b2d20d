"""Cuts an object into chunks, in one pass over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.names import SeenIds, is_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference_runtime.splitting.formats import Format
    from inference_runtime.splitting.source import Source

MOST_ITEMS = 100_000
"""Items of a chunk at most: sending them takes less than a minute."""

_MOST_LISTED = 1000
"""Items of a chunk that are listed because an earlier one has their id. If there are more, all go by their numbers."""


def plan(form: Format, source: Source, *, chunk_bytes: int, most_items: int = MOST_ITEMS) -> Iterator[Chunk]:
    """Yield the chunks of an object, in their order.

    An object that is small, or that must be read from its beginning, is one chunk, and is not read for that.

    Parameters
    ----------
    form
        The format of the object.
    source
        The object.
    chunk_bytes
        Bytes of a chunk, unless one item has more.
    most_items
        Items of a chunk at most, if the format can be cut there.

    Raises
    ------
    CorruptObjectError
        It is not an object of this format.
    """
    if source.size <= chunk_bytes or not form.splits(source):
        yield Chunk()
        return
    head, seen = form.head(source), SeenIds()
    start = number = size = count = 0
    repeated: list[int] = []
    for entry in form.scan(source):
        if not count:
            start, number = entry.position or 0, entry.number
        elif entry.position is not None and (size + entry.size > chunk_bytes or count >= most_items):
            yield Chunk(start, entry.position, number, head, _by_number(repeated))
            start, number, size, count, repeated = entry.position, entry.number, 0, 0, []
        size += entry.size
        count += 1
        if entry.id is not None and is_id(entry.id) and not seen.is_new(entry.id) and len(repeated) <= _MOST_LISTED:
            repeated.append(entry.number)
    if count:
        yield Chunk(start, None, number, head, _by_number(repeated))


def _by_number(repeated: list[int]) -> list[int] | bool:
    return repeated if len(repeated) <= _MOST_LISTED else True
