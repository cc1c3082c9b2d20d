"""Parquet: every row is an item, which comes as a JSON object."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from inference_runtime.splitting.errors import CorruptObjectError
from inference_runtime.splitting.formats import Chunk, Entry, Found
from inference_runtime.splitting.source import SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference_runtime.splitting.source import Source

_MOST_READ_BYTES = 512 * 1024**2
_BUFFER_BYTES = 1024**2
_ROWS = 256  # in memory at a time
_UTC = "+00:00"  # pyarrow looks for the name UTC in the database of time zones, which Lambda's image does not have
_OUT_OF_RANGE = (OverflowError, ValueError)
_DAMAGED = (pa.ArrowException, OSError, ValueError)


class ParquetRows:
    """Parquet files.

    Times are written as ISO 8601, with microseconds at most, and in UTC if they have a time zone. Decimals are written
    as texts, and bytes in base64. Numbers that are not finite are null. A row with a value that Python cannot
    represent, such as a date in the year 10000, is an item that is rejected. The number of an item is that of its row,
    from 1.

    Parameters
    ----------
    item_id
        The column with the ids of items, texts or whole numbers.
    columns
        The columns of the items. Default: all.
    """

    def __init__(self, item_id: str | None = None, columns: Sequence[str] | None = None) -> None:
        self._column = item_id
        self._columns = columns

    def splits(self, source: Source) -> bool:  # noqa: ARG002 - of the protocol
        """Return True."""
        return True

    def head(self, source: Source) -> None:
        """Return nothing: a row group says all."""

    def scan(self, source: Source) -> Iterator[Entry]:
        """Yield the rows, or the first of each row group if they have no ids."""
        file = self._open(source)
        number = 1
        for group in range(file.num_row_groups):
            described = file.metadata.row_group(group)
            size = sum(described.column(index).total_compressed_size for index in range(described.num_columns))
            position: int | None = group
            if self._column is None and described.num_rows:
                yield Entry(number, None, size, position)
            elif self._column is not None:
                for offset, (_, row) in enumerate(_rows(file, [group], [self._column])):
                    yield Entry(number + offset, _id(row, self._column), 0 if offset else size, position)
                    position = None
            number += described.num_rows

    def items(self, source: Source, chunk: Chunk) -> Iterator[Found]:
        """Yield the rows of a chunk, which starts and ends with row groups."""
        file = self._open(source)
        end = file.num_row_groups if chunk.end is None else chunk.end
        columns, column = None if self._columns is None else list(self._columns), self._column
        extra = columns is not None and column is not None and column not in columns
        read = [*columns, column] if columns is not None and column is not None and extra else columns
        for number, (why, row) in enumerate(_rows(file, list(range(chunk.start, end)), read), chunk.number):
            found = None if column is None else _id(row, column)
            if column is not None and extra:
                row.pop(column, None)
            if why is None:
                yield Found(number=number, id=found, data=_json(row))
            else:
                yield Found(number=number, id=found, range=source.range(0, 0, size=0, reject=why))

    def _open(self, source: Source) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(
                SourceFile(source, most=_MOST_READ_BYTES), buffer_size=_BUFFER_BYTES, pre_buffer=False
            )
            names = file.schema_arrow.names
        except _DAMAGED as error:
            raise CorruptObjectError(f"object must be a Parquet file, got something else: {error}") from error
        for name in [*(self._columns or ()), *([] if self._column is None else [self._column])]:
            if names.count(name) != 1:
                raise CorruptObjectError(f"Parquet file must have the column {name!r} once, got {names!r:.300}")
        return file


def _rows(
    file: pq.ParquetFile, groups: list[int], columns: list[str] | None
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield rows; one that cannot be read has a reason, and only the other values."""
    try:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=columns, use_threads=False):
            exact = _exact(batch)
            try:
                rows = exact.to_pylist()
            except _OUT_OF_RANGE:
                yield from (_row(exact, index) for index in range(exact.num_rows))
            else:
                yield from ((None, row) for row in rows)
    except _DAMAGED as error:
        raise CorruptObjectError(f"object must be a Parquet file, got a damaged one: {error}") from error


def _row(batch: pa.RecordBatch, index: int) -> tuple[str | None, dict[str, Any]]:
    """Return a row with the values that Python can represent, and why another one cannot be read."""
    row: dict[str, Any] = {}
    why = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except _OUT_OF_RANGE as error:
            why = f"column {name!r:.200} has a value that cannot be read: {error}"
    return why, row


def _exact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose times Python can represent.

    Python knows no nanoseconds. Time zones become UTC, since their names need a database.
    """
    schema = pa.schema([_python_field(field) for field in batch.schema])
    return (
        batch
        if schema.equals(batch.schema)
        else pa.RecordBatch.from_arrays(
            [column.cast(field.type, safe=False) for column, field in zip(batch.columns, schema, strict=True)],
            schema=schema,
        )
    )


def _python_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us" if kind.unit == "ns" else kind.unit, None if kind.tz is None else _UTC)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    return _python_nested(kind) if pa.types.is_nested(kind) else kind


def _python_nested(kind: pa.DataType) -> pa.DataType:
    found = [_python_field(kind.field(index)) for index in range(kind.num_fields)]
    if pa.types.is_list(kind):
        kind = pa.list_(*found)
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(*found)
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(*found, kind.list_size)
    elif pa.types.is_map(kind):
        kind = pa.map_(_python_field(kind.key_field), _python_field(kind.item_field), keys_sorted=kind.keys_sorted)
    elif pa.types.is_struct(kind):
        kind = pa.struct(found)
    return kind


def _python_field(field: pa.Field) -> pa.Field:
    return field.with_type(_python_type(field.type))


def _id(row: dict[str, Any], column: str) -> str:
    found = row.get(column)
    return str(found) if isinstance(found, (str, int)) and not isinstance(found, bool) else ""


def _json(row: dict[str, Any]) -> bytes:
    try:
        text = _tight(row)
    except ValueError:  # a number that is not finite
        text = _tight(_finite(row))
    return text.encode()


def _tight(row: dict[str, Any]) -> str:
    return json.dumps(row, default=_written, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _written(value: object) -> str | float:
    """Return a value as JSON has it that has no such type."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    return [_finite(member) for member in value] if isinstance(value, (list, tuple)) else value
