"""Handler of the function that plans a backfill: it reads, and says what the workflow has to score."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.backfill import Planner, Wanted
from inference_runtime.environment import json_variable, required
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_bucket, _table = required("BUCKET"), required("RESULTS_TABLE")
_trigger: dict[str, Any] = json_variable("BACKFILL", dict)
_s3: S3Client = client("s3")
_dynamodb: DynamoDBClient = client("dynamodb")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Return the messages of the listed objects that are still to be scored.

    Parameters
    ----------
    event
        `{"items", "run", "encoded"}`: objects as a listing or an inventory has them, a name for the batch, and whether
        keys are URL-encoded. If not null: `since`, ISO 8601; `models`, whose rows count as scored; and `again`, the
        statuses of rows that do not.
    context
        Unused.

    Returns
    -------
    dict
        See `Planner.plan`.
    """
    since = event.get("since")
    wanted = Wanted(
        prefix=_trigger["prefix"],
        suffixes=_trigger["suffixes"],
        since=datetime.fromisoformat(since) if since else None,
        encoded=event["encoded"],
        models=event.get("models") or _trigger["models"],
        again=event.get("again") or (),
    )
    planner = Planner(s3=_s3, dynamodb=_dynamodb, bucket=_bucket, table=_table, wanted=wanted)
    return planner.plan(event["items"], event["run"])
