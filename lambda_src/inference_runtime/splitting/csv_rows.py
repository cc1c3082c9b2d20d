"""CSV: every row after the header is an item, which comes as a CSV file of one row."""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Entry, Found
from inference_runtime.splitting.message_text import message_json
from inference_runtime.splitting.records import Record, records
from inference_runtime.stages.byte_range import utf8

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference_runtime.splitting.source import Source

_UTF8 = "utf-8"
_QUOTE = b'"'
_LINE_ENDS = b"\r\n"


class CsvRows:
    """Objects of CSV with a header.

    Lines end in LF or CRLF. A quote that begins a value ends at the next single one, as Python's module `csv` has it,
    so values may have line ends. The number of an item is that of its row after the header, from 1; empty lines are not
    counted.

    Parameters
    ----------
    most_header_bytes
        Largest header, which goes with each item: in its encoding, and as JSON in UTF-8.
    item_id
        The column with the ids of items.
    delimiter
        The separator of values: one character of ASCII.
    encoding
        Python's name of the encoding. Its bytes below 128 must be ASCII.
    """

    def __init__(
        self, *, most_header_bytes: int, item_id: str | None = None, delimiter: str = ",", encoding: str = _UTF8
    ) -> None:
        self._most = most_header_bytes
        self._column = item_id
        self._delimiter = delimiter
        self._encoding = encoding
        self._charset = None if encoding.lower().replace("_", "-") in {_UTF8, "utf8"} else encoding

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return True."""
        return True

    def head(self, source: Source) -> str:
        """Return the header, with its line end."""
        return self._header(source)[0]

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the rows."""
        header, start = self._header(source)
        column = self._index(header)
        for number, row in self._rows(source, Chunk(start)):
            yield Entry(number, self._id(row.data, column), row.end - row.start, row.start)

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the rows of a chunk."""
        header, start = self._header(source) if chunk.head is None else (chunk.head, chunk.start)
        column = self._index(header)
        for number, row in self._rows(source, Chunk(start, chunk.end, chunk.number)):
            data, end = row.data, row.end
            if data is not None:
                data = data.rstrip(_LINE_ENDS)
                end = row.start + len(data)
            size = end - row.start
            yield Found(
                number=number,
                id=self._id(row.data, column),
                data=None if data is None else header.encode() + utf8(data, self._charset),
                range=source.range(row.start, end, size=size, header=header, charset=self._charset),
            )

    def _header(self, source: Source) -> tuple[str, int]:
        """Return the header, and where the rows start."""
        for record in self._records(source, Chunk()):
            data = (record.data or b"").removeprefix(BOM_UTF8).rstrip(_LINE_ENDS)
            if not data and record.data is not None:
                continue
            if record.data is None or len(data) > self._most:
                raise self._long_header(record.end - record.start)
            try:
                text = data.decode(self._encoding)
            except UnicodeDecodeError as error:
                raise CorruptObjectError(f"header must be {self._encoding}: {error}") from error
            if "\r" in text.replace("\r\n", ""):
                raise CorruptObjectError("lines must end in LF or CRLF, got CR in the header")
            # As JSON of a message has it: there, a control character takes six bytes.
            if (size := len(message_json(text).encode())) > self._most:
                raise self._long_header(size)
            return f"{text}\n", record.end
        return "", source.size

    def _long_header(self, size: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"header must be at most {self._most:,} bytes, since it goes with each row, got {size:,}; use smaller "
            "batches, or fewer columns"
        )

    def _rows(self, source: Source, chunk: Chunk) -> Iterator[tuple[int, Record]]:
        found = (row for row in self._records(source, chunk) if row.data is None or row.data.rstrip(_LINE_ENDS))
        return enumerate(found, chunk.number)

    def _records(self, source: Source, chunk: Chunk) -> Iterator[Record]:
        end = source.size if chunk.end is None else chunk.end
        quotes = _Quotes(self._delimiter, mark=b"" if chunk.start else BOM_UTF8)
        return records(source.blocks(chunk.start, end), chunk.start, quotes.ends)

    def _index(self, header: str) -> int | None:
        """Return the number of the column with the ids."""
        if self._column is None or not header:
            return None
        names = [name.strip() for name in self._values(header)]
        if names.count(self._column) != 1:
            raise CorruptObjectError(f"header must have the column {self._column!r} once, got {header!r:.300}")
        return names.index(self._column)

    def _id(self, row: bytes | None, column: int | None) -> str | None:
        if column is None:
            return None
        try:
            values = [] if row is None else self._values(row.decode(self._encoding))
        except (UnicodeDecodeError, csv.Error):
            return ""
        return values[column] if column < len(values) else ""

    def _values(self, text: str) -> list[str]:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter), [])


class _Quotes:
    """Tells where records end: at the end of a line that is not in quotes.

    Parameters
    ----------
    delimiter
        The separator of values.
    mark
        Bytes that may come before the first value, such as a byte order mark.
    """

    def __init__(self, delimiter: str, *, mark: bytes = b"") -> None:
        self._delimiter = delimiter.encode()
        self._opening = self._delimiter + _QUOTE
        self._quoted = False
        self._pending = False  # the last byte was a quote in quotes: it ends them, or is the first of two
        self._at_value = True  # the last byte came before a value
        self._mark = mark  # the rest of it, which may still come

    def ends(self, piece: bytes) -> bool:
        """Return whether a record ends with a piece, which comes after all pieces before it."""
        if self._mark:
            piece = self._after_mark(piece)
            if not piece:
                return False
        if _QUOTE in piece or self._pending:
            self._follow(piece)
        if self._quoted:
            return False
        ended = piece.endswith(b"\n")
        self._at_value = ended or piece.endswith(self._delimiter)
        return ended

    def _after_mark(self, piece: bytes) -> bytes:
        """Return a piece without the bytes of the mark, whose other bytes may come with the next piece."""
        most = min(len(piece), len(self._mark))
        size = next((at for at in range(most) if piece[at] != self._mark[at]), most)
        self._mark = self._mark[size:] if size == len(piece) else b""
        return piece[size:]

    def _follow(self, piece: bytes) -> None:
        at = 0
        if self._pending:
            self._pending = False
            if piece.startswith(_QUOTE):
                at = 1
            else:
                self._quoted = False
        elif not self._quoted and self._at_value and piece.startswith(_QUOTE):
            self._quoted, at = True, 1
        while True:
            if not self._quoted:
                if (opening := piece.find(self._opening, at)) < 0:
                    return
                self._quoted, at = True, opening + len(self._opening)
            if (closing := piece.find(_QUOTE, at)) < 0:
                return
            if closing == len(piece) - 1:
                self._pending = True
                return
            if piece[closing + 1 : closing + 2] == _QUOTE:
                at = closing + 2
            else:
                self._quoted, at = False, closing + 1
