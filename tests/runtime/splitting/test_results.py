"""The results object: one line for each item, in their order, once all have a row."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from tests.runtime.invocation import Context
from tests.runtime.splitting.stored import item_of

from inference_runtime.aws import client
from inference_runtime.errors import LittleTimeError, RetryableError
from inference_runtime.splitting.results import Results
from inference_runtime.stages.dynamo_sink import put_row
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

PART = 5 * 1024**2
OBJECT = item_of(1, "a.jsonl")


@pytest.fixture
def collect(
    environment: pytest.MonkeyPatch, bucket: str, table: str, load: Callable[[str], Any], s3: S3Client
) -> Callable[..., dict[str, Any]]:
    """The handler, for items whose names are in the lists that are given."""
    environment.setenv("BUCKET", bucket)
    environment.setenv("ROW_VERSIONS", '["m1", "m2"]')
    handler = load("collect")

    def call(state: Any = None, *, late: bool = False, seconds: float = 300) -> dict[str, Any]:
        execution = {"object": OBJECT.to_json(), "names": "splits/x/names/", "versions": ["m0", "m1"]}
        event = {"execution": execution, "state": state, "late": late}
        return json.loads(json.dumps(handler(json.loads(json.dumps(event)), Context(seconds))))

    return call


def list_names(s3: S3Client, bucket: str, *lists: list[str]) -> list[str]:
    """Write lists of names, and return all names."""
    first = 1
    for names in lists:
        body = "".join(f"{json.dumps(name)}\n" for name in names).encode()
        s3.put_object(Bucket=bucket, Key=f"splits/x/names/{first:012d}-{0:012d}.jsonl", Body=body)
        first += len(names)
    return list(chain(*lists))


def record(dynamodb: DynamoDBClient, table: str, name: str, **changes: Any) -> None:
    """Write the row of an item."""
    said = {"source": "arn:aws:s3:::photos", "id": name, "sequence": str(0xF), "time": OBJECT.event_time}
    item = Item.from_message({"message_id": "m", "item": {**said, **changes.pop("item", {})}, "body": name})
    defaults: dict[str, Any] = {
        "status": "SUCCEEDED",
        "model_version": "m1",
        "inference": "cpu",
        "recorded_at": "2026-01-02T03:04:05Z",
        "prediction": prediction_attribute({"y": 0.5, "raw": b"\xff", "name": name}),
    }
    put_row(dynamodb, table, row(item, **{**defaults, **changes}))


def results(s3: S3Client, bucket: str) -> list[Any]:
    body = s3.get_object(Bucket=bucket, Key="results/a.jsonl.jsonl")["Body"].read()
    return [json.loads(line) for line in body.splitlines()]


def test_the_results_are_there_when_all_items_have_a_row(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    names = list_names(s3, bucket, [f"a.jsonl#{number}" for number in range(1, 121)], [], ["a.jsonl#ä\n"])
    for name in names[1:]:
        record(dynamodb, table, name)
    answer = collect()
    assert (answer["done"], answer["again"], answer["state"]["waits_for"]) == (False, False, names[0])
    record(dynamodb, table, names[0], item={"sequence": "14"})  # of an earlier upload
    assert collect(answer["state"])["state"]["waits_for"] == names[0]
    record(dynamodb, table, names[0], status="REJECTED", reason="no", prediction=None, model_version="m2")
    answer = collect(answer["state"])
    assert answer == {
        "done": True,
        "again": False,
        "superseded": False,
        "items": 121,
        "missing": 0,
        "key": "results/a.jsonl.jsonl",
        "state": None,
    }
    first, *others = results(s3, bucket)
    assert first == {"key": names[0], "status": "REJECTED", "reason": "no", "model_version": "m2"}
    assert [one["prediction"] for one in others] == [{"y": 0.5, "raw": "/w==", "name": name} for name in names[1:]]


def test_items_without_a_row_are_written_when_it_is_late(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    names = list_names(s3, bucket, ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"])
    record(dynamodb, table, names[1])
    answer = collect(collect()["state"], late=True)
    assert (answer["done"], answer["items"], answer["missing"]) == (True, 3, 2)
    assert [one["status"] for one in results(s3, bucket)] == ["MISSING", "SUCCEEDED", "MISSING"]


def test_the_newest_row_of_several_models_counts(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    names = list_names(s3, bucket, ["a.jsonl#1", "a.jsonl#2"])
    record(dynamodb, table, names[0], recorded_at="2026-01-02T03:04:06Z", model_version="m2")
    record(dynamodb, table, names[0])
    record(dynamodb, table, names[1], model_version="m3")
    assert collect()["state"]["waits_for"] == names[1]
    record(dynamodb, table, names[1])
    assert collect()["done"]
    assert [one["model_version"] for one in results(s3, bucket)] == ["m2", "m1"]


def test_rows_of_a_model_that_was_replaced_meanwhile_count(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    for name, version in zip(list_names(s3, bucket, ["a.jsonl#1", "a.jsonl#2"]), ["m0", "m2"], strict=True):
        record(dynamodb, table, name, model_version=version)
    assert collect()["done"]
    assert [one["model_version"] for one in results(s3, bucket)] == ["m0", "m2"]


def test_an_object_without_items_has_empty_results(collect: Any, s3: S3Client, bucket: str) -> None:
    assert collect()["done"]
    assert results(s3, bucket) == []


def test_a_later_upload_ends_the_results_of_an_earlier_one(
    s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    names = list_names(s3, bucket, [f"a.jsonl#{number}" for number in range(30)])
    large = prediction_attribute({"text": "x" * 290_000})
    for name in names[:-1]:
        record(dynamodb, table, name, prediction=large)
    made = results_of(bucket, table)
    answer = made.write(None, late=False, is_over=lambda: False)
    assert (answer["done"], answer["state"]["parts"], answer["state"]["waits_for"]) == (False, 1, names[-1])
    assert len(s3.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    record(dynamodb, table, names[-1], item={"sequence": "16"})
    answer = made.write(answer["state"], late=False, is_over=lambda: False)
    assert (answer["done"], answer["superseded"]) == (True, True)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert s3.list_objects_v2(Bucket=bucket, Prefix="results/")["KeyCount"] == 0


@pytest.mark.parametrize("superseded", [False, True])
def test_an_upload_that_is_gone_begins_anew(
    s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str, superseded: bool
) -> None:
    """S3 may have completed it, and its answer was lost."""
    names = list_names(s3, bucket, [f"a.jsonl#{number}" for number in range(20)])
    for name in names:
        record(dynamodb, table, name, prediction=prediction_attribute({"text": "x" * 290_000}))
    made = results_of(bucket, table)
    state = made.write(None, late=False, is_over=uploaded(s3, bucket, made.key, 0))["state"]
    s3.abort_multipart_upload(Bucket=bucket, Key=made.key, UploadId=state["upload"])
    if superseded:
        s3.put_object(Bucket=bucket, Key="splits/x/names/z.jsonl", Body=b'"later"\n')
        record(dynamodb, table, "later", item={"sequence": "16"})
        state["file"] = "splits/x/names/z.jsonl"
        assert made.write({**state, "line": 0}, late=False, is_over=lambda: False)["superseded"]
        return
    answer = made.write(state, late=False, is_over=lambda: False)
    assert (answer["done"], answer["again"], answer["state"]["upload"]) == (False, True, None)
    assert made.write(answer["state"], late=False, is_over=lambda: False)["done"]
    assert [one["key"] for one in results(s3, bucket)] == names


@pytest.mark.parametrize("size", [1, 290_000], ids=["whole", "parts"])
def test_results_of_an_earlier_upload_never_replace_those_of_a_later_one(
    s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str, size: int
) -> None:
    """Events come late, and the later upload may have no row that tells."""
    made = [results_of(bucket, table, replace(OBJECT, sequencer=sequencer)) for sequencer in ("9", "10", "ff")]
    for name in list_names(s3, bucket, [f"a.jsonl#{number}" for number in range(20)]):
        record(dynamodb, table, name, item={"sequence": "9"}, prediction=prediction_attribute({"text": "x" * size}))
    place = {"Bucket": bucket, "Key": made[0].key}

    def write(which: int, *, late: bool = True) -> tuple[bool, str]:
        answer = made[which].write(None, late=late, is_over=lambda: False)
        assert answer["done"]
        return answer["superseded"], s3.head_object(**place)["Metadata"]["sequencer"][-3:]

    assert write(0, late=False) == (False, "009")
    assert write(1) == (False, "016")
    assert write(0) == (True, "016")
    assert all(line["status"] == "MISSING" for line in results(s3, bucket))
    # Others are written after this one has looked.
    head, others = made[2]._s3.head_object, ["20", "256"]

    def overtaken(**asked: Any) -> Any:
        found = head(**asked)
        if others:
            other = others.pop(0)
            s3.put_object(**place, Body=other.encode(), Metadata={"sequencer": other.rjust(64, "0")})
        return found

    with patch.object(made[2]._s3, "head_object", overtaken):
        assert write(2) == (True, "256")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def results_of(bucket: str, table: str, item: Item = OBJECT) -> Results:
    services = {"s3": client("s3"), "dynamodb": client("dynamodb")}
    shared: dict[str, Any] = {"bucket": bucket, "table": table, "item": item, "names": "splits/x/names/"}
    # One item at a time, so that parts may end anywhere.
    return Results(**services, **shared, versions=["m1", *map(str, range(99))], part_bytes=PART)


def test_large_results_are_written_in_parts_over_several_invocations(
    s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    names = list_names(s3, bucket, *([f"a.jsonl#{number}" for number in range(at, at + 7)] for at in range(0, 49, 7)))
    for name in names:
        record(dynamodb, table, name, prediction=prediction_attribute({"text": name[-2:] * 140_000}))
    made, state, calls = results_of(bucket, table), None, 0
    while True:
        calls += 1
        before = state["parts"] if state else 0
        # Each invocation ends when it has written a part.
        answer = made.write(state, late=False, is_over=uploaded(s3, bucket, made.key, before))
        if answer["done"]:
            break
        assert answer["again"]
        state = json.loads(json.dumps(answer["state"]))
    assert calls == 3
    found = results(s3, bucket)
    assert [one["key"] for one in found] == names
    assert all(one["prediction"]["text"][:2] == one["key"][-2:] for one in found)
    assert (answer["items"], answer["missing"]) == (49, 0)


def uploaded(s3: S3Client, bucket: str, key: str, before: int) -> Callable[[], bool]:
    """Return a function that tells whether there is another part than before."""

    def is_over() -> bool:
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        parts = [s3.list_parts(Bucket=bucket, Key=key, UploadId=one["UploadId"]).get("Parts", []) for one in uploads]
        return sum(map(len, parts)) > before

    return is_over


def test_time_that_is_over_before_a_part_fails(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    for name in list_names(s3, bucket, ["a.jsonl#1"]):
        record(dynamodb, table, name)
    with pytest.raises(LittleTimeError, match="before a part"):
        collect(seconds=20)


def test_a_table_that_is_out_of_order_fails_as_retryable(
    collect: Any, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str
) -> None:
    list_names(s3, bucket, ["a.jsonl#1"])
    dynamodb.delete_table(TableName=table)
    with pytest.raises(RetryableError, match=r"cannot write s3://.*ResourceNotFound"):
        collect()
