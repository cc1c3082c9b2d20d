"""Handler of the scheduled function that tells whether objects, or the answers to them, have drifted."""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError
from inference_runtime.lifecycle import answers_warming
from inference_runtime.logs import print_metric
from inference_runtime.monitoring.table import PARTITION_KEY, SORT_KEY
from inference_runtime.monitoring.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient

SOURCE = "cdk-inference"

VERDICT = "Drift Verdict"
"""The detail type of the event for a verdict."""

CONFIGURATION = "drift.json"
"""The file in the package that says what to judge: the models, with their baselines."""

GRACE_SECONDS = 60
"""Batches that began at the end of a window may still be counted this much later."""

LOOK_BACK_SECONDS = 2 * 24 * 3600
"""Windows that were not judged in time are judged later, unless they are older than this."""

_dynamodb: DynamoDBClient = client("dynamodb")
_log = logging.getLogger(__name__)
_table, _pipeline = required("DRIFT_TABLE"), required("PIPELINE")
_bus = os.environ.get("EVENT_BUS", "")
_events: Any = client("events") if _bus else None
_configuration: dict[str, Any] = json.loads(
    Path(os.environ.get("LAMBDA_TASK_ROOT", ""), CONFIGURATION).read_text("utf-8")
)


@answers_warming
def handler(event: dict[str, Any], context: object) -> list[dict[str, Any]]:  # noqa: ARG001 - Lambda's signature
    """Judge the windows that have ended, log each verdict with its evidence, and record the metric ``Drift``.

    If somebody wants events, each verdict is one.

    Returns
    -------
    list
        The verdicts, as they are logged.

    Raises
    ------
    RetryableError
        Events could not be sent. These windows are judged again, and events for them have the same ``event_id``.
    """
    verdicts, unsent = [], []
    for model in _configuration["models"]:
        for started_at, counts in _open_windows(model["key"]):
            found = judge(
                counts,
                model["statistics"],
                false_alarm_rate=_configuration["false_alarm_rate"],
                min_objects=_configuration["min_objects"],
            )
            said = {"pipeline": _pipeline, "model_version": model["version"], "window": started_at, **found}
            _publish(said)
            if _events is not None and not _announce(said, model["key"]):
                unsent.append(started_at)
                continue
            # Last: a window whose verdict got lost is judged again.
            _close(model["key"], started_at, found)
            verdicts.append(said)
    if unsent:
        raise RetryableError(f"cannot send the verdicts of {len(unsent)} windows; see the log for the reasons")
    return verdicts


def _open_windows(key: str) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield begin and counts of each window that has ended and has no verdict, oldest first."""
    now = time.time()
    last = datetime.fromtimestamp(now - _configuration["window"] - GRACE_SECONDS, UTC)
    first = datetime.fromtimestamp(now - _configuration["window"] - LOOK_BACK_SECONDS, UTC)
    pages = _dynamodb.get_paginator("query").paginate(
        TableName=_table,
        KeyConditionExpression="#model = :model AND #started BETWEEN :first AND :last",
        FilterExpression="attribute_not_exists(verdict)",
        ExpressionAttributeNames={"#model": PARTITION_KEY, "#started": SORT_KEY},
        ExpressionAttributeValues={
            ":model": {"S": key},
            ":first": {"S": first.isoformat(timespec="seconds")},
            ":last": {"S": last.isoformat(timespec="seconds")},
        },
        ConsistentRead=True,
    )
    for page in pages:
        for item in page["Items"]:
            yield item[SORT_KEY]["S"], {name: int(value["N"]) for name, value in item.items() if "N" in value}


def _publish(said: dict[str, Any]) -> None:
    """Write the verdict to the log, which CloudWatch takes the metric from."""
    _log_line(said, ["pipeline", "model_version"])
    if _configuration["metric_per_statistic"]:
        for one in said.get("statistics", ()):
            kept = {"pipeline": _pipeline, "model_version": said["model_version"], "window": said["window"]}
            _log_line(
                {**kept, "statistic": one["name"], "drift": one["drift"]}, ["pipeline", "model_version", "statistic"]
            )


def _announce(said: dict[str, Any], key: str) -> bool:
    """Send an event with the verdict, and return whether the bus took it."""
    detail = {"event_id": f"{key} {said['window']}", **said, "baseline": key}
    entry = {"Source": SOURCE, "DetailType": VERDICT, "Detail": json.dumps(detail), "EventBusName": _bus}
    try:
        (answer,) = _events.put_events(Entries=[entry])["Entries"]
    except (BotoCoreError, ClientError):
        _log.exception("cannot send the verdict of window %s", said["window"])
        return False
    if "ErrorCode" in answer:
        _log.error("cannot send the verdict of window %s: %s", said["window"], answer)
    return "ErrorCode" not in answer


def _log_line(said: dict[str, Any], dimensions: list[str]) -> None:
    members = {name: value for name, value in said.items() if name != "drift"}
    print_metric(members, "Drift", said.get("drift"), dimensions=dimensions)


def _close(key: str, started_at: str, found: dict[str, Any]) -> None:
    names = {"verdict": {"S": found["verdict"]}} | ({"drift": {"N": str(found["drift"])}} if "drift" in found else {})
    _dynamodb.update_item(
        TableName=_table,
        Key={PARTITION_KEY: {"S": key}, SORT_KEY: {"S": started_at}},
        UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in names),
        ExpressionAttributeValues={f":{name}": value for name, value in names.items()},
    )
