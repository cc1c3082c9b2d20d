"""Handler of the function that takes labels: from files in a bucket, or from whoever invokes it."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.logs import print_metric
from inference_runtime.retraining import layout
from inference_runtime.retraining.label_table import LabelTable, count
from inference_runtime.retraining.labels import LabelError, newest, parse, parse_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

CLASSES = "classes.json"
"""The file in the package that has the classes of the model."""

_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_runs, _pipeline = required("RUNS_TABLE"), required("PIPELINE")
_classes = frozenset(json.loads(Path(os.environ.get("LAMBDA_TASK_ROOT", ""), CLASSES).read_text("utf-8")))
_table = LabelTable(
    _dynamodb,
    labels=required("LABELS_TABLE"),
    runs=_runs,
    results=required("RESULTS_TABLE"),
    bucket=required("BUCKET"),
)
_max_bytes = int(required("MAX_LABEL_BYTES"))
_threshold = int(os.environ.get("NEW_LABELS", "0"))  # 0: new labels start nothing
_machine = os.environ.get("STATE_MACHINE", "")
_workflows: SFNClient | None = client("stepfunctions") if _threshold else None
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Write the labels that can be taken, say why others cannot, and start a run once there are enough.

    Parameters
    ----------
    event
        Messages of a queue with S3's events for files of JSON lines, or `{"labels": […]}`. See `labels.parse`.
    context
        Unused.

    Returns
    -------
    dict
        For labels: `{"accepted", "unchanged", "rejected"}`, two numbers, and a list of `{"label", "reason"}`.
        For messages: ``batchItemFailures``, those whose labels could not be written.
    """
    if "Records" not in event:
        said = event.get("labels")
        return _take(said if isinstance(said, list) else [said], datetime.now(UTC))
    failed = []
    for message in event["Records"]:
        try:
            _take_file(json.loads(message["body"]))
        except (BotoCoreError, ClientError, LookupError, TypeError, ValueError):
            _log.exception("cannot take the labels of message %s", message["messageId"])
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def _take_file(event: dict[str, Any]) -> None:
    bucket, found = event["detail"]["bucket"]["name"], event["detail"]["object"]
    key = found["key"]
    rejected = f"{layout.REJECTED}{key.removeprefix(layout.LABELS)}"
    if found["size"] > _max_bytes:
        reason = f"a file of labels must be at most {_max_bytes:,} bytes, got {found['size']:,}; split it"
        taken: dict[str, Any] = {"accepted": 0, "unchanged": 0, "rejected": [{"label": key, "reason": reason}]}
        _tell(taken)
    else:
        # Not the time of this delivery: another one must not seem to say the same later.
        at = datetime.fromisoformat(event["time"]).astimezone(UTC)
        # Not a newer version, which has another event, and perhaps another size. The embedded AWS names none.
        which = {"VersionId": found["version-id"]} if "version-id" in found else {}
        file = _s3.get_object(Bucket=bucket, Key=key, **which)
        taken = _take(parse_lines(file["Body"].read()), at)
    if taken["rejected"]:
        lines = "".join(f"{json.dumps(one)}\n" for one in taken["rejected"])
        _s3.put_object(Bucket=bucket, Key=rejected, Body=lines.encode(), ContentType="application/jsonl")


def _take(said: Sequence[object], now: datetime) -> dict[str, Any]:
    accepted, rejected = [], []
    for one in said:
        try:
            accepted.append(_table.check(parse(one, _classes, now)))
        except LabelError as error:
            rejected.append({"label": one, "reason": str(error)})
    labels = newest(accepted)
    written = _table.write(labels, datetime.now(UTC).isoformat())
    taken = {"accepted": written, "unchanged": len(accepted) - written, "rejected": rejected}
    _tell(taken)
    if labels:  # also if all of them are known: whoever wrote them may have died before this
        _start_if_enough()
    return taken


def _tell(taken: dict[str, Any]) -> None:
    """Log what was taken, and record the metric ``RejectedLabels``."""
    reasons = [one["reason"] for one in taken["rejected"][:20]]
    said = {"pipeline": _pipeline, "accepted": taken["accepted"], "unchanged": taken["unchanged"], "reasons": reasons}
    print_metric(said, "RejectedLabels", len(taken["rejected"]), dimensions=["pipeline"])


def _start_if_enough() -> None:
    """Start a run when there are enough new labels, and again when there are as many more.

    The name of the execution follows from the count: whoever else sees the same starts the same, which is once. So it
    does from the month: each has a budget.
    """
    if _workflows is None:
        return
    counted = count(_dynamodb, _runs)
    if counted.new < _threshold:
        return
    try:
        _workflows.start_execution(
            stateMachineArn=_machine,
            name=f"labels-{counted.selected}-{counted.new // _threshold}-{datetime.now(UTC):%Y-%m}",
            input=json.dumps({"by": "labels", "reason": f"there are {counted.new} new labels"}),
        )
    except ClientError as error:
        if error_code(error) != "ExecutionAlreadyExists":
            raise
