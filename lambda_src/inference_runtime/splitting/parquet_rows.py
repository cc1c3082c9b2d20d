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
_DAMAGED = (pa.ArrowException, OSError, ValueError)


class ParquetRows:
    """Parquet files.

    Times are written as ISO 8601, with microseconds at most, decimals as texts, and bytes in base64. Numbers that are
    not finite are null. The number of an item is that of its row, from 1.

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
                for offset, row in enumerate(_rows(file, [group], [self._column])):
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
        for number, row in enumerate(_rows(file, list(range(chunk.start, end)), read), chunk.number):
            found = None if column is None else _id(row, column)
            if column is not None and extra:
                row.pop(column)
            yield Found(number=number, id=found, data=_json(row))

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


def _rows(file: pq.ParquetFile, groups: list[int], columns: list[str] | None) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=groups, columns=columns, use_threads=False):
            yield from _exact(batch).to_pylist()
    except _DAMAGED as error:
        raise CorruptObjectError(f"object must be a Parquet file, got a damaged one: {error}") from error


def _exact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose times Python can represent, which knows no nanoseconds."""
    schema = pa.schema([field.with_type(_python_type(field.type)) for field in batch.schema])
    return (
        batch
        if schema.equals(batch.schema)
        else pa.RecordBatch.from_arrays(
            [column.cast(field.type, safe=False) for column, field in zip(batch.columns, schema, strict=True)],
            schema=schema,
        )
    )


def _python_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_python_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct(
            [kind.field(index).with_type(_python_type(kind.field(index).type)) for index in range(kind.num_fields)]
        )
    return kind


def _id(row: dict[str, Any], column: str) -> str:
    found = row[column]
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
