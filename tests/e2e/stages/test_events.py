"""Events that come late, twice, out of order, or of objects that are gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


def record(a: float) -> bytes:
    return json.dumps({"a": a, "b": 0, "c": 0, "d": 0}).encode()


def test_an_object_deleted_before_it_is_read_is_rejected(cloud: LocalCloud, tables: Watched) -> None:
    kept, deleted = keys = ["rows/kept.json", "rows/deleted.json"]
    with tables.throttled("Preprocess"):
        for key in keys:
            tables.put(key, record(1))
        cloud.client("s3").delete_object(Bucket=tables.bucket, Key=deleted)
    assert tables.ends(keys) == {kept: "SUCCEEDED", deleted: "REJECTED"}
    assert tables.row(deleted)["reason"] == "object no longer exists"


def test_an_object_overwritten_before_it_is_read_gets_one_row(tables: Watched) -> None:
    key = "rows/overwritten.json"
    with tables.throttled("Preprocess"):
        tables.put(key, record(1))
        tables.put(key, record(2))
    assert tables.ends([key]) == {key: "SUCCEEDED"}
    assert tables.row(key)["prediction"]["sums"][0] == 2


class Messages:
    """An object for whose key the rule has no event, so that the test can send its own as it likes."""

    def __init__(self, pipeline: Watched, key: str) -> None:
        self._pipeline = pipeline
        self.key = key

    def send(self, version: dict[str, Any], sequencer: str, *, time: str, with_id: bool) -> None:
        """Send an event in the form of EventBridge, and wait until it is done."""
        described = {"key": self.key, "size": version["Size"], "etag": version["ETag"].strip('"')}
        described["sequencer"] = sequencer
        if with_id:  # as S3 does for versioned buckets, and the emulator does not
            described["version-id"] = version["VersionId"]
        event = {
            "version": "0",
            "detail-type": "Object Created",
            "source": "aws.s3",
            "time": time,
            "detail": {"version": "0", "bucket": {"name": self._pipeline.bucket}, "object": described},
        }
        sqs = self._pipeline.cloud.client("sqs")
        sqs.send_message(QueueUrl=self._pipeline.queue, MessageBody=json.dumps(event))
        self._pipeline.wait_for_queued([self.key], 0)

    def put(self, data: bytes) -> dict[str, Any]:
        """Put a version, and return it."""
        self._pipeline.put(self.key, data)
        s3 = self._pipeline.cloud.client("s3")
        versions = s3.list_object_versions(Bucket=self._pipeline.bucket, Prefix=self.key)["Versions"]
        return next(version for version in versions if version["IsLatest"])


def test_of_events_delivered_twice_and_out_of_order_the_newest_wins(tables: Watched) -> None:
    messages = Messages(tables, "rows/again.txt")
    version = messages.put(record(1))
    # Sequencers of the same key compare as if the shorter one ended in zeros.
    older, newer = ("0055AED6DCD90281E5", "2026-01-01T00:00:01Z"), ("0055AED6DCD90281E501", "2026-01-01T00:00:02Z")
    for sequencer, time in (newer, older, newer, older):
        messages.send(version, sequencer, time=time, with_id=False)
    row = tables.row(messages.key)
    assert (row["status"], row["event_time"]) == ("SUCCEEDED", newer[1])
    assert row["sequencer"] == newer[0].lower().ljust(32, "0")
    assert messages.key not in tables.dead()


def test_each_version_of_an_object_gets_one_row(cloud: LocalCloud, tables: Watched) -> None:
    messages = Messages(tables, "rows/versions.txt")
    versions = [messages.put(record(a)) for a in (1, 2, 3)]
    ids = [version["VersionId"] for version in versions]
    cloud.client("s3").delete_object(Bucket=tables.bucket, Key=messages.key, VersionId=ids[1])
    for number in (2, 1, 0, 1, 2):
        messages.send(versions[number], f"{number:016x}", time=f"2026-01-01T00:00:0{number}Z", with_id=True)
    rows = {row["version"].partition("#")[0]: row for row in tables.rows(messages.key)}
    assert len(tables.rows(messages.key)) == len(ids)
    assert [rows[i]["status"] for i in ids] == ["SUCCEEDED", "REJECTED", "SUCCEEDED"]
    assert [rows[i].get("prediction", {}).get("sums") for i in ids] == [[1, 0], None, [3, 0]]
    assert rows[ids[1]]["reason"] == "object version no longer exists"
    assert messages.key not in tables.dead()
