"""The export: every row of a window in Parquet files, whatever the rows are like, and the same files each time."""

from __future__ import annotations

import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import RetryableError
from inference_runtime.export import parts
from inference_runtime.export.columns import JSONS, SCHEMA, TEXTS
from inference_runtime.export.rows import RowReader
from inference_runtime.export.window import Window
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

NOON = datetime(2026, 3, 22, 12, tzinfo=UTC)
FOLDER = "results/day=2026-03-22/hour=11/"


def made(key: str, recorded_at: datetime, **outcome: Any) -> dict[str, Any]:
    """Return a row as pipelines write it."""
    time = recorded_at.isoformat(timespec="milliseconds")
    event_time, kept = outcome.pop("event_time", time), outcome.pop("kept", {})
    item = Item("id", "inbox", key, None, "etag", 3, "0" * 32, event_time, "m", kept)
    named = {"status": "SUCCEEDED", "model_version": "m1", "inference": "cpu", **outcome}
    if "prediction" in named:
        named["prediction"] = prediction_attribute(named["prediction"])
    return row(item, recorded_at=time, **named)


@given(time=st.datetimes(timezones=st.just(UTC)), hours=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
def test_windows_follow_one_another_and_are_over(time: datetime, hours: int) -> None:
    if time < datetime(2, 1, 1, tzinfo=UTC):
        return
    window = Window.before(time, hours)
    assert window.end - window.start == timedelta(hours=hours)
    assert timedelta(0) <= time - window.end < timedelta(hours=hours)
    assert Window.before(window.end - timedelta(microseconds=1), hours).end == window.start


def test_a_time_of_another_zone_is_that_of_utc() -> None:
    window = Window.before(datetime.fromisoformat("2026-03-22T00:20:00+02:00"), 1)
    assert (window.folder, window.first, window.last) == (
        "day=2026-03-21/hour=21/",
        "2026-03-21T21:00:00.000+00:00",
        "2026-03-21T21:59:59.999+00:00",
    )


def test_a_file_has_all_that_a_row_has() -> None:
    first = {"M": {"model_version": {"S": "m0"}, "confidence": {"N": "0.25"}}}
    full = made(
        "größe.jpg",
        NOON,
        prediction={"label": "cat", "scores": [0.5, 1, None], "vector": b"\x00\xff"},
        kept={"width": 4},
        confidence=0.75,
        expires_at=1_800_000_000,
        route="large",
        variant="a",
        first=first,
        explanation={"method": "occlusion", "grid": [[0.5, 1]]},
    )
    rejected = made("none", NOON, status="REJECTED", reason="object is empty", event_time="yesterday")
    (found,) = (pq.read_table(path) for path in parts.parts_of([full, rejected]))
    assert found.schema.equals(SCHEMA)
    one, other = found.to_pylist()
    for name in TEXTS:
        assert one[name] == (full[name]["S"] if name in full else "cat" if name == "label" else None)
    prediction, kept, earlier, explanation = (json.loads(one[name]) for name in JSONS)
    assert prediction == {"label": "cat", "scores": [0.5, 1, None], "vector": "AP8="}
    assert explanation == {"method": "occlusion", "grid": [[0.5, 1]]}
    assert (kept, earlier) == ({"width": 4}, {"model_version": "m0", "confidence": 0.25})
    assert (one["size"], one["confidence"], one["recorded_at"], one["event_time"]) == (3, 0.75, NOON, NOON)
    assert one["expires_at"] == datetime.fromtimestamp(1_800_000_000, UTC)
    assert (other["status"], other["reason"], other["label"]) == ("REJECTED", "object is empty", None)
    assert [other[name] for name in ("prediction", "kept", "first", "confidence", "event_time")] == [None] * 5


@pytest.mark.parametrize("event_time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "", "yesterday"])
@pytest.mark.parametrize(("size", "found"), [(str(2**63 - 1), 2**63 - 1), (str(2**63), None), (str(10**30), None)])
def test_values_that_no_column_holds_are_null(event_time: str, size: str, found: int | None) -> None:
    strange = {**made("a", NOON, event_time=event_time), "size": {"N": size}}
    (table,) = (pq.read_table(path) for path in parts.parts_of([strange, made("b", NOON)]))
    one, other = table.to_pylist()
    assert (one["event_time"], one["size"]) == (None, found)
    assert (other["event_time"], other["size"]) == (NOON, 3)


def test_rows_of_any_number_and_size_are_split_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 MB in 2,000 rows, of which a few row groups are in memory."""
    count = 2_000

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield made(f"{number}", NOON, prediction={"text": f"{number:030000}"})

    monkeypatch.setattr(parts, "MAX_GROUP_BYTES", 1024**2)
    monkeypatch.setattr(parts, "MAX_PART_BYTES", 1.5 * 1024**2)
    monkeypatch.setattr(parts, "COMPRESSION", "none")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        found = []
        for path in parts.parts_of(rows()):
            assert pa.total_allocated_bytes() - before < 8 * 1024**2
            file = pq.ParquetFile(path)
            found.append((path.stat().st_size, file.metadata.num_row_groups, file.read(["key"])["key"].to_pylist()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [key for *_, keys in found for key in keys] == [f"{number}" for number in range(count)]
    assert {groups for _, groups, _ in found[:-1]} == {2}
    assert max(size for size, *_ in found) < 4 * 1024**2
    assert peak < 8 * 1024**2


def test_the_same_rows_make_the_same_files_and_none_make_none() -> None:
    rows = [made(f"{number}", NOON, prediction={"n": number}) for number in range(10)]
    assert [one.read_bytes() for one in parts.parts_of(rows)] == [one.read_bytes() for one in parts.parts_of(rows)]
    assert list(parts.parts_of([])) == []


@pytest.fixture
def table(dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch, bucket: str) -> Any:
    """A results table with an index of statuses, and the rest of the function's environment."""
    name = f"exported-{bucket}"
    texts = ("object", "version", "status", "recorded_at")
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in texts],
        KeySchema=[{"AttributeName": "object", "KeyType": "HASH"}, {"AttributeName": "version", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "by-status",
                "KeySchema": [
                    {"AttributeName": "status", "KeyType": "HASH"},
                    {"AttributeName": "recorded_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    )
    for variable, value in {
        "RESULTS_TABLE": name,
        "STATUS_INDEX": "by-status",
        "EXPORT_BUCKET": bucket,
        "EXPORT_PREFIX": "results/",
        "WINDOW_HOURS": "1",
    }.items():
        environment.setenv(variable, value)
    return boto3.resource("dynamodb").Table(name)


def put(dynamodb: DynamoDBClient, table: Any, *rows: dict[str, Any]) -> None:
    for one in rows:
        dynamodb.put_item(TableName=table.name, Item=one)


def files(s3: S3Client, bucket: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all files, by the file's key."""
    listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    bodies = {one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed}
    return {key: pq.read_table(io.BytesIO(body)).to_pylist() for key, body in bodies.items()}


def test_a_window_has_its_rows_and_no_others_whenever_it_is_exported(
    dynamodb: DynamoDBClient,
    s3: S3Client,
    table: Any,
    bucket: str,
    load: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = {
        "before": NOON - timedelta(hours=1, milliseconds=1),
        "first": NOON - timedelta(hours=1),
        "last": NOON - timedelta(milliseconds=1),
        "after": NOON,
    }
    put(dynamodb, table, *(made(key, moment, prediction={"label": key}) for key, moment in moments.items()))
    inside = NOON - timedelta(minutes=30)
    put(dynamodb, table, *(made(status.lower(), inside, status=status) for status in ("REJECTED", "FAILED")))
    put(dynamodb, table, *(made(f"many/{n:03}", inside, prediction={"text": "x" * 3000}) for n in range(230)))
    handler = load("export_results")
    done = handler({"time": "2026-03-22T12:20:00Z"})
    assert done == {
        "window": ["2026-03-22T11:00:00+00:00", "2026-03-22T12:00:00+00:00"],
        "folder": f"s3://{bucket}/{FOLDER}",
        "files": 1,
    }
    found = files(s3, bucket)
    many = [f"many/{n:03}" for n in range(230)]
    assert list(found) == [f"{FOLDER}part-0.parquet"]
    assert [one["key"] for one in found[f"{FOLDER}part-0.parquet"]] == ["failed", "rejected", "first", *many, "last"]

    # A run into smaller files, and another one after most rows are gone: the files are always those of the rows.
    monkeypatch.setattr(parts, "MAX_GROUP_ROWS", 50)
    monkeypatch.setattr(parts, "MAX_PART_BYTES", 1)
    handler({"time": "2026-03-22T12:59:59+00:00"})
    found = files(s3, bucket)
    assert list(found) == [f"{FOLDER}part-{number}.parquet" for number in range(5)]
    assert [one["key"] for rows in found.values() for one in rows] == ["failed", "rejected", "first", *many, "last"]
    for key in many:
        table.delete_item(Key={"object": f"inbox/{key}", "version": "null#m1"})
    assert handler({"time": "2026-03-22T12:20:00Z"})["files"] == 1
    assert list(files(s3, bucket)) == [f"{FOLDER}part-0.parquet"]
    assert handler({"time": "2026-03-22T11:20:00Z"})["files"] == 1
    assert handler({"time": "2026-03-22T10:20:00Z"})["files"] == 0


def test_rows_of_many_numbers_are_read_a_few_at_a_time(dynamodb: DynamoDBClient, table: Any) -> None:
    """The rows of two answers are in memory, and what the next answer is made of."""
    count, numbers = 100, [n + 0.123456789 for n in range(1_000)]
    put(
        dynamodb,
        table,
        *(made(f"{n:03}", NOON - timedelta(minutes=1), prediction={"n": numbers}) for n in range(count)),
    )
    reader = RowReader(dynamodb, table=table.name, index="by-status")
    tracemalloc.start()
    try:
        first = dynamodb.get_item(
            TableName=table.name, Key={"object": {"S": "inbox/000"}, "version": {"S": "null#m1"}}
        )["Item"]
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = [one["key"]["S"] for one in reader.rows(Window.before(NOON, 1))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(first["prediction"]["M"]["n"]["L"]) == len(numbers)
    assert found == [f"{n:03}" for n in range(count)]
    assert peak < 75 * size


def test_a_row_that_was_replaced_is_in_the_window_of_its_successor(
    dynamodb: DynamoDBClient, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dynamodb, table, made("a", NOON - timedelta(minutes=1)), made("b", NOON - timedelta(minutes=1)))
    reader = RowReader(dynamodb, table=table.name, index="by-status")
    listed = list(reader._keys(Window.before(NOON, 1)))
    put(dynamodb, table, made("a", NOON))
    monkeypatch.setattr(reader, "_keys", lambda window: iter(listed))
    assert [one["key"]["S"] for one in reader.rows(Window.before(NOON, 1))] == ["b"]


class _Throttled:
    """A client of DynamoDB that leaves rows out of its answers, as one of a busy table does."""

    def __init__(self, dynamodb: DynamoDBClient, answered: int) -> None:
        self._dynamodb, self._answered = dynamodb, answered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dynamodb, name)

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - as boto3 names it
        ((name, asked),) = RequestItems.items()
        now, later = asked["Keys"][: self._answered], asked["Keys"][self._answered :]
        found: Any = self._dynamodb.batch_get_item(RequestItems={name: {"Keys": now}}) if now else {"Responses": {}}
        return {**found, "UnprocessedKeys": {name: {"Keys": later}} if later else {}}


def test_rows_that_dynamodb_leaves_out_are_asked_for_again(dynamodb: DynamoDBClient, table: Any) -> None:
    put(dynamodb, table, *(made(f"{n:02}", NOON - timedelta(minutes=1)) for n in range(25)))
    client: Any = _Throttled(dynamodb, answered=2)
    found = RowReader(client, table=table.name, index="by-status").rows(Window.before(NOON, 1))
    assert [one["key"]["S"] for one in found] == [f"{n:02}" for n in range(25)]


def test_a_table_that_gives_no_rows_fails_as_retryable(
    dynamodb: DynamoDBClient, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_runtime.export.rows._FIRST_PAUSE", 0)
    put(dynamodb, table, made("a", NOON - timedelta(minutes=1)))
    client: Any = _Throttled(dynamodb, answered=0)
    with pytest.raises(RetryableError, match="DynamoDB leaves out 1 rows of exported-"):
        list(RowReader(client, table=table.name, index="by-status").rows(Window.before(NOON, 1)))


@pytest.mark.parametrize(("time", "says"), [("2026-03-22T12:20:00", "time zone"), ("noon", "isoformat")])
def test_a_time_that_is_not_readable_fails(table: Any, load: Callable[[str], Any], time: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load("export_results")({"time": time})
