"""JSON lines: every line that is not empty is an item."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from inference_runtime.json_path import text_at
from inference_runtime.splitting.formats import Chunk, Entry, Found
from inference_runtime.splitting.records import Record, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference_runtime.splitting.source import Source


class JsonLines:
    """Objects of JSON lines.

    A line need not be JSON: the preprocessing rejects it otherwise, and its row says why. The number of an item is that
    of its line.

    Parameters
    ----------
    item_id
        Where in a line the id of its item is, such as ``order.id``.
    """

    def __init__(self, item_id: str | None = None) -> None:
        self._path = item_id

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return True."""
        return True

    def head(self, source: Source) -> None:
        """Return nothing: a line says all."""

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the lines."""
        for number, line in _lines(source, Chunk()):
            yield Entry(number, self._id(line.data), line.end - line.start, line.start)

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the lines of a chunk."""
        for number, line in _lines(source, chunk):
            data, end = line.data, line.end
            if data is not None:
                data = data.rstrip(b"\r\n")
                end = line.start + len(data)
            yield Found(
                number=number,
                id=self._id(line.data),
                data=data,
                range=source.range(line.start, end, size=end - line.start),
            )

    def _id(self, line: bytes | None) -> str | None:
        return None if self._path is None else text_at(line or b"", self._path)


def _lines(source: Source, chunk: Chunk) -> Iterator[tuple[int, Record]]:
    """Yield the lines of a chunk that are not empty, and their numbers."""
    end = source.size if chunk.end is None else chunk.end
    found = records(source.blocks(chunk.start, end), chunk.start, lambda piece: piece.endswith(b"\n"))
    for number, line in enumerate(found, chunk.number):
        start, data = line.start, line.data
        if start == 0 and data is not None and data.startswith(BOM_UTF8):
            start, data = len(BOM_UTF8), data.removeprefix(BOM_UTF8)
        if data is None or data.strip():
            yield number, Record(start, line.end, data)
