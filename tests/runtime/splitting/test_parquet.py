"""Parquet: every row as a JSON object, whatever its types are, in bounded memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.splitting.stored import Stored, chunks_of, item_of, named, source_of

from inference_runtime.errors import RejectItem, RetryableError
from inference_runtime.splitting.errors import CorruptObjectError, SupersededError
from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.parquet_rows import ParquetRows
from inference_runtime.splitting.source import Source

NESTED = pa.struct({"at": pa.list_(pa.timestamp("ns")), "x": pa.null()})


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def rows(form: ParquetRows, data: bytes) -> list[Any]:
    return [json.loads(content) for _, content in named(form, data)]


def test_all_types_become_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("zoneinfo.ZoneInfo")  # Lambda's image has no database of time zones
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    columns = {
        "int": pa.array([2**62, None]),
        "float": pa.array([0.1, float("nan")]),
        "text": pa.array(["ä\u2028", ""]),
        "yes": pa.array([True, False]),
        "bytes": pa.array([b"\xff\x00", b""]),
        "money": pa.array([Decimal("12345678901234567890.10"), None]),
        "day": pa.array([date(2026, 1, 2), None]),
        "clock": pa.array([3_000_000_123, None], pa.time64("ns")),
        "local": pa.array([moment.replace(tzinfo=None), None]),
        "nano": pa.array([1_767_323_045_678_901_234, None], pa.timestamp("ns", "UTC")),
        "zoned": pa.array([1_767_323_045, None], pa.timestamp("s", "Europe/Berlin")),
        "large": pa.array([[1_000_000_001], None], pa.large_list(pa.timestamp("ns"))),
        "pair": pa.array([[1_000_000_001, 2_000_000_001], None], pa.list_(pa.timestamp("ns"), 2)),
        "times": pa.array([[("k", 1_000_000_001)], None], pa.map_(pa.string(), pa.timestamp("ns", "Asia/Tokyo"))),
        "span": pa.array([timedelta(hours=1, microseconds=5), None], pa.duration("ns")),
        "list": pa.array([[1.5, float("inf")], []]),
        "nested": pa.array([{"at": [1_000_000_001], "x": None}, None], NESTED),
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
    }
    first, second = rows(ParquetRows(), written(pa.table(columns)))
    assert first == {
        "int": 2**62,
        "float": 0.1,
        "text": "ä\u2028",
        "yes": True,
        "bytes": "/wA=",
        "money": "12345678901234567890.10",
        "day": "2026-01-02",
        "clock": time(0, 0, 3).isoformat(),
        "local": "2026-01-02T03:04:05.678901",
        "nano": "2026-01-02T03:04:05.678901+00:00",
        "zoned": "2026-01-02T03:04:05+00:00",
        "large": ["1970-01-01T00:00:01"],
        "pair": ["1970-01-01T00:00:01", "1970-01-01T00:00:02"],
        "times": [["k", "1970-01-01T00:00:01+00:00"]],
        "span": 3600.000005,
        "list": [1.5, None],
        "nested": {"at": ["1970-01-01T00:00:01"], "x": None},
        "map": [["k", 1]],
        "kind": "a",
    }
    assert second == dict.fromkeys(columns) | {
        "text": "",
        "yes": False,
        "bytes": "",
        "list": [],
        "map": [],
        "kind": "b",
    }


def test_a_value_that_python_cannot_represent_rejects_its_row_only() -> None:
    late = 253_402_300_800  # the year 10000, in seconds
    for kind, value in (
        (pa.timestamp("s"), late),
        (pa.timestamp("us", "UTC"), late * 10**6),
        (pa.date32(), late // 86_400),
    ):
        data = written(pa.table({"id": ["a", "b", "c"], "at": pa.array([0, value, 0], kind)}))
        for form in (ParquetRows("id"), ParquetRows("id", ["at"])):
            first, bad, last = form.items(source_of(data), Chunk())
            assert [first.id, bad.id, last.id] == ["a", "b", "c"]
            assert json.loads(first.data or b"")["at"].startswith("1970-01-01")
            assert last.data
            assert bad.data is None
            assert bad.range is not None
            with pytest.raises(RejectItem, match="column 'at' has a value that cannot be read"):
                bad.range.check()
        assert [entry.id for entry in ParquetRows("id").scan(source_of(data))] == ["a", "b", "c"]
        assert [entry.id for entry in ParquetRows("at").scan(source_of(data))] == [""] * 3


@settings(max_examples=50)
@given(
    ids=st.lists(st.sampled_from(["a", "b", "", "7", None]), min_size=1, max_size=20),
    group=st.integers(1, 7),
    chunk=st.integers(1, 4000),
    most=st.integers(1, 10),
)
def test_rows_are_the_same_in_any_chunks(ids: list[str | None], group: int, chunk: int, most: int) -> None:
    table = pa.table({"id": ids, "number": range(len(ids)), "other": ["x"] * len(ids)})
    data = written(table, row_group_size=group)
    for form in (ParquetRows(), ParquetRows("id"), ParquetRows("id", ["number"]), ParquetRows("number", ["id"])):
        whole = named(form, data)
        assert named(form, data, chunks_of(form, data, chunk, most)) == whole
        assert len({name for name, _ in whole}) == len(ids)
    assert rows(ParquetRows("id", ["number"]), data) == [{"number": number} for number in range(len(ids))]
    assert [name for name, _ in whole] == [f"K#{number}" for number in range(len(ids))]
    names = [name for name, _ in named(ParquetRows("id"), data)]
    assert names == [
        f"K#{found}" if found and found not in ids[:number] else f"K##{number + 1}" for number, found in enumerate(ids)
    ]


_DATA = written(pa.table({"id": [1, 2, 3], "a": ["x"] * 3}))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "must be a Parquet file"),
        (b"plain text" * 10, "must be a Parquet file"),
        (_DATA[:-1], "must be a Parquet file"),
        (_DATA[:-8] + b"\xff\xff\xff\x7fPAR1", "must be a Parquet file"),
        (b"PAR1" + bytes(20) + _DATA[24:], "damaged"),
    ],
    ids=["empty", "text", "cut", "footer", "page"],
)
def test_an_object_that_is_not_parquet_fails(data: bytes, text: str) -> None:
    with pytest.raises(CorruptObjectError, match=text):
        named(ParquetRows(), data)


@pytest.mark.parametrize("form", [ParquetRows("b"), ParquetRows(columns=["id", "b"])])
def test_a_column_that_is_not_there_fails(form: ParquetRows) -> None:
    with pytest.raises(CorruptObjectError, match="must have the column 'b' once"):
        named(form, _DATA)


@settings(max_examples=100)
@given(places=st.lists(st.tuples(st.integers(4, len(_DATA) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_fails_only_in_the_way_that_is_known(places: list[tuple[int, int]]) -> None:
    damaged = bytearray(_DATA)
    for place, value in places:
        damaged[place] = value
    with suppress(CorruptObjectError):
        named(ParquetRows("id"), bytes(damaged))


@pytest.mark.parametrize("error", [RetryableError("no"), SupersededError("no")])
def test_errors_of_s3_are_not_taken_for_damage(error: Exception) -> None:
    class Broken(Stored):
        def get_object(self, **asked: Any) -> dict[str, Any]:
            if len(self.ranges) == 1:
                raise error
            return super().get_object(**asked)

    data = written(pa.table({"a": ["x" * 100] * 10_000}), compression="none", use_dictionary=False)
    stored: Any = Broken(data)
    with pytest.raises(type(error)):
        list(ParquetRows().items(Source(stored, item_of(len(data))), Chunk()))


def test_memory_does_not_grow_with_the_file() -> None:
    """50 MB in row groups of 5 MB: Python and Arrow keep a part of one group."""
    table = pa.table({"id": range(50_000), "text": [f"{number:1000d}" for number in range(50_000)]})
    data = written(table, row_group_size=5000, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        found = ParquetRows("id").items(source_of(data), Chunk())
        peak = max(pa.total_allocated_bytes() - before for one in found if one.data)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) > 50_000_000
    assert peak < 20_000_000
    assert traced < 20_000_000
