"""Objects in memory, which are read by ranges as S3 has them, and the items that a format finds in one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.names import Names
from inference_runtime.splitting.planning import plan
from inference_runtime.splitting.source import Source
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inference_runtime.splitting.formats import Format, Found

KEY = "folder/a.bin"


class Stored:
    """The part of S3's client that reads objects, and the ranges that were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[tuple[int, int]] = []

    def get_object(self, **asked: Any) -> dict[str, Any]:
        first, last = map(int, asked["Range"].removeprefix("bytes=").split("-"))
        self.ranges.append((first, last + 1))
        return {"Body": io.BytesIO(self.data[first : last + 1])}


def item_of(size: int, key: str = KEY) -> Item:
    return Item("0" * 64, "photos", key, None, "e", size, "0" * 31 + "f", "2026-01-02T03:04:05Z", "m")


def source_of(data: bytes) -> Source:
    return Source(Stored(data), item_of(len(data)))  # type: ignore[arg-type]


def chunks_of(form: Format, data: bytes, chunk_bytes: int, most_items: int = 100_000) -> list[Chunk]:
    return list(plan(form, source_of(data), chunk_bytes=chunk_bytes, most_items=most_items))


def named(form: Format, data: bytes, chunks: Iterable[Chunk] = (Chunk(),)) -> list[tuple[str, bytes]]:
    """Return the names of all items, and their bytes as preprocessing gets them."""
    found = []
    for chunk in chunks:
        names = Names("K", chunk.by_number)
        found += [(names.name(one.number, one.id), content(one, data)) for one in form.items(source_of(data), chunk)]
    return found


def content(found: Found, data: bytes) -> bytes:
    """Return an item's bytes: if it has them and a range, these must be the same."""
    if found.range is not None:
        found.range.check()
        read = found.range.content(data[found.range.start : found.range.end])
        assert found.data in (None, read)
        return read
    return found.data if found.data is not None else b"".join(found.blocks or ())


def in_blocks(size: int) -> Any:
    """Read objects in blocks of this size."""
    return patch("inference_runtime.splitting.source.BLOCK", size)
