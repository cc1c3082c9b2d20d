"""Writes rows as Parquet files of bounded size, with a bounded part of them in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from inference_runtime.export.columns import SCHEMA, record_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inference_runtime.export.rows import Row

MAX_GROUP_ROWS = 20_000
MAX_GROUP_BYTES = 16 * 1024**2
"""Most rows of a row group, and bytes of their texts: they are in memory together."""

COMPRESSION = "snappy"
"""Every reader of Parquet has it."""

MAX_PART_BYTES = 64 * 1024**2
"""Bytes of a file after which another one begins: one request of S3 takes it, and `/tmp` has room for it."""


def parts_of(rows: Iterable[Row]) -> Iterator[Path]:
    """Yield files with the rows, in their order; each is gone when the next one is asked for.

    The same rows make the same files.
    """
    groups = _groups(rows)
    group = next(groups, None)
    while group is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "part.parquet")
            with path.open("wb") as file, pq.ParquetWriter(file, SCHEMA, compression=COMPRESSION) as writer:
                writer.write_table(group)
                group = next(groups, None)
                while group is not None and file.tell() < MAX_PART_BYTES:
                    writer.write_table(group)
                    group = next(groups, None)
            yield path


def _groups(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Yield the rows as tables, each of which becomes a row group."""
    records: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        record = record_of(row)
        records.append(record)
        size += sum(len(value) for value in record.values() if isinstance(value, str))
        if len(records) == MAX_GROUP_ROWS or size >= MAX_GROUP_BYTES:
            yield pa.Table.from_pylist(records, schema=SCHEMA)
            records, size = [], 0
    if records:
        yield pa.Table.from_pylist(records, schema=SCHEMA)
