"""Results as Parquet files: from the schedule to the file, and who may read it."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws
from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

ROW = {"a": 1, "b": 2, "c": 3, "d": 4}


def folder_of(recorded_at: datetime) -> str:
    return f"results/day={recorded_at:%Y-%m-%d}/hour={recorded_at:%H}/"


def files(cloud: LocalCloud, bucket: str, folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the files in a folder, as who may read them gets them."""
    credentials = cloud.client("iam").create_access_key(UserName="analyst")["AccessKey"]
    s3 = aws.role_clients(cloud.endpoint, credentials, ["s3"])["s3"]
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix=folder).get("Contents", [])]
    bodies = {key: io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys}
    cloud.client("iam").delete_access_key(UserName="analyst", AccessKeyId=credentials["AccessKeyId"])
    return {key: pq.read_table(body).to_pylist() for key, body in bodies.items()}


def run(cloud: LocalCloud, time: datetime) -> None:
    """Let the schedule run now, as the run of a time that is over."""
    client = cloud.client("scheduler")
    (schedule,) = (one for one in client.list_schedules()["Schedules"] if "ExportSchedule" in one["Name"])
    place = {"Name": schedule["Name"], "GroupName": schedule["GroupName"]}
    found = client.get_schedule(**place)
    again = {name: found[name] for name in ("FlexibleTimeWindow", "Target")}
    client.update_schedule(**place, ScheduleExpression=f"at({time:%Y-%m-%dT%H:%M:%S})", **again)


def test_rows_become_files_that_who_is_granted_reads(
    cloud: LocalCloud, tables: Watched, outputs: dict[str, str]
) -> None:
    bucket = outputs["ExportBucket"]
    keys = ["rows/exported.json", "rows/EXPORTED.JSON"]
    for key, value in zip(keys, (ROW, {}), strict=True):
        tables.put(key, json.dumps(value).encode())
    assert tables.ends(keys) == dict(zip(keys, ("SUCCEEDED", "REJECTED"), strict=True))
    recorded = {key: datetime.fromisoformat(tables.row(key)["recorded_at"]) for key in keys}

    def export(time: datetime) -> dict[str, Any]:
        event = json.dumps({"time": time.isoformat()})
        answer = cloud.client("lambda").invoke(FunctionName=outputs["ExportFunction"], Payload=event)
        found: dict[str, Any] = json.loads(answer["Payload"].read())
        return found

    for _ in range(2):  # another run changes nothing
        for moment in recorded.values():
            done = export(moment + timedelta(hours=1))
            assert (done["folder"], done["files"]) == (f"s3://{bucket}/{folder_of(moment)}", 1)
    for key, moment in recorded.items():
        found = files(cloud, bucket, folder_of(moment))
        assert list(found) == [f"{folder_of(moment)}part-0.parquet"]
        (exported,) = (one for one in found[f"{folder_of(moment)}part-0.parquet"] if one["key"] == key)
        row = tables.row(key)
        assert exported["recorded_at"] == moment
        assert {name: exported[name] for name in ("object", "version", "status", "model_version", "reason")} == {
            name: row.get(name) for name in ("object", "version", "status", "model_version", "reason")
        }
        prediction = exported["prediction"]
        assert (prediction and json.loads(prediction)) == ({"sums": [3, 7]} if "prediction" in row else None)


def test_the_schedule_exports_the_last_hour(cloud: LocalCloud, tables: Watched, outputs: dict[str, str]) -> None:
    tables.put("rows/yesterday.json", json.dumps(ROW).encode())
    tables.ends(["rows/yesterday.json"])
    table = cloud.client("dynamodb")
    place = {name: {"S": tables.row("rows/yesterday.json")[name]} for name in ("object", "version")}
    row = table.get_item(TableName=tables.table, Key=place)["Item"]
    now = datetime.now(UTC)  # once: the hour may turn
    before = now - timedelta(hours=1)
    changed = {"key": {"S": "rows/before.json"}, "object": {"S": f"{tables.bucket}/rows/before.json"}}
    changed["recorded_at"] = {"S": before.isoformat(timespec="milliseconds")}
    table.put_item(TableName=tables.table, Item={**row, **changed})
    run(cloud, now)
    wait_until(lambda: files(cloud, outputs["ExportBucket"], folder_of(before)))
    (found,) = files(cloud, outputs["ExportBucket"], folder_of(before)).values()
    assert "rows/before.json" in [one["key"] for one in found]


def test_who_may_read_files_reads_nothing_else(cloud: LocalCloud, tables: Watched, outputs: dict[str, str]) -> None:
    credentials = cloud.client("iam").create_access_key(UserName="analyst")["AccessKey"]
    clients = aws.role_clients(cloud.endpoint, credentials, ["dynamodb", "s3"])
    with pytest.raises(ClientError, match="AccessDenied"):
        clients["s3"].list_objects_v2(Bucket=outputs["ExportBucket"])
    with pytest.raises(ClientError, match="AccessDenied"):
        clients["s3"].get_object(Bucket=tables.bucket, Key="rows/exported.json")
    with pytest.raises(ClientError, match="AccessDenied"):
        clients["s3"].put_object(Bucket=outputs["ExportBucket"], Key="results/mine", Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        clients["dynamodb"].get_item(TableName=tables.table, Key={"object": {"S": "a"}, "version": {"S": "b"}})
