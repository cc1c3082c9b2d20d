"""Uploads are counted, and windows that have ended are judged by a function that may do nothing else."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

OBJECTS = 64


def upload(records: Watched, name: str, numbers: np.ndarray[Any, Any]) -> None:
    keys = {f"{name}/{place}": dict(zip("abcd", row, strict=True)) for place, row in enumerate(numbers.tolist())}
    for key, record in keys.items():
        records.put(key, json.dumps(record).encode())
    assert set(records.ends(keys).values()) == {"SUCCEEDED"}


def table_of(cloud: LocalCloud) -> str:
    resources = cloud.resources(pipeline="Drift/Records")
    return next(each.physical_id for each in resources if each.metadata["role"] == "drift-windows")


def end_windows(cloud: LocalCloud, minutes: int) -> None:
    """Put what has been counted in the current windows into one that ended so many minutes ago."""
    dynamodb, table = cloud.client("dynamodb"), table_of(cloud)
    items = dynamodb.scan(TableName=table, FilterExpression="attribute_not_exists(moved)", ConsistentRead=True)["Items"]
    counts: dict[str, int] = {}
    for item in items:
        for name, value in item.items():
            if "N" in value and name != "expires_at":
                counts[name] = counts.get(name, 0) + int(value["N"])
        dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("model", "started_at")})
    begin = datetime.fromisoformat(items[0]["started_at"]["S"]) - timedelta(minutes=minutes)
    key = {"model": items[0]["model"], "started_at": {"S": begin.isoformat()}, "moved": {"BOOL": True}}
    dynamodb.put_item(TableName=table, Item=key | {name: {"N": str(count)} for name, count in counts.items()})


def test_like_objects_are_no_drift_and_unlike_ones_are(cloud: LocalCloud, watched: Watched) -> None:
    random = np.random.default_rng(7)
    upload(watched, "like", random.normal(size=(OBJECTS, 4)))
    watched.put("no record", b"no JSON")
    assert watched.ends(["no record"]) == {"no record": "REJECTED"}
    end_windows(cloud, 60)
    upload(watched, "unlike", random.normal(size=(OBJECTS, 4)) + np.array([2, 0, 0, 0]))
    end_windows(cloud, 30)

    answer = cloud.client("lambda").invoke(FunctionName=watched.functions["Judge"], Payload=b"{}")
    assert "FunctionError" not in answer, answer["Payload"].read()
    like, unlike = (json.loads(line) for line in watched.logs("Judge").splitlines() if '"verdict"' in line)

    assert (like["verdict"], like["objects"], like["rejected"]) == ("NO_DRIFT", OBJECTS, 1)
    assert (unlike["verdict"], unlike["objects"], unlike["rejected"]) == ("DRIFT", OBJECTS, 0)
    assert like["Drift"] < 1 < unlike["Drift"]
    drifted = {one["name"] for one in unlike["statistics"] if one["drifted"]}
    assert {"scores label", "numbers feature 0"} <= drifted
    assert not drifted & {"numbers feature 1", "numbers feature 2", "numbers feature 3"}
    assert {line["pipeline"] for line in (like, unlike)} == {"Drift/Records"}


def test_the_metric_is_the_one_that_alarms_look_at(cloud: LocalCloud, watched: Watched) -> None:
    alarms = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (drift,) = (alarm for alarm in alarms if alarm.get("MetricName") == "Drift")
    row = watched.rows()[0]
    dimensions = {each["Name"]: each["Value"] for each in drift["Dimensions"]}
    assert dimensions == {"pipeline": "Drift/Records", "model_version": row["model_version"]}
    assert all("docs/operate/runbook.md#" in alarm["AlarmDescription"] for alarm in alarms)


def test_the_dashboard_is_there(cloud: LocalCloud, watched: Watched) -> None:
    body = json.loads(cloud.client("cloudwatch").get_dashboard(DashboardName="records")["DashboardBody"])
    widgets = {widget["properties"]["title"]: widget["properties"] for widget in body["widgets"]}
    assert {"Objects in 5 minutes", "Drift", "USD for 1,000 objects, without GPUs"} <= widgets.keys()
    for title, function in {"Cold starts, percent of invocations": "Inference", "Drift: verdicts": "Judge"}.items():
        configuration = cloud.client("lambda").get_function_configuration(FunctionName=watched.functions[function])
        assert f"SOURCE '{configuration['LoggingConfig']['LogGroup']}'" in widgets[title]["query"]
