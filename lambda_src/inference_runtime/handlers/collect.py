"""Handler of the function that writes the results of an object's items into one object, once they are all there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.environment import json_variable, required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.splitting.results import Results
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_RESERVE_SECONDS = 30.0
"""Seconds of an invocation that are kept to write a part."""

_bucket, _table = required("BUCKET"), required("RESULTS_TABLE")
_versions: list[str] = json_variable("ROW_VERSIONS", list)
_s3: S3Client = client("s3")
_dynamodb: DynamoDBClient = client("dynamodb")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Go on with the results object of an object.

    Parameters
    ----------
    event
        `{"execution", "state", "late"}`: the input of the state machine's execution, and the `state` of the last answer
        or null. When it is `late`, items that have no row are written too.
    context
        Lambda's: when the time runs low, the rest is left to another invocation.

    Returns
    -------
    dict
        `done`, whether the results object is there. If not, `state` for the next invocation, and `again`, whether that
        need not wait. The numbers of `items` that were written and of those without a row, `missing`. The `key` of the
        results object, and whether the rows are `superseded` by a later upload; then there is none.

    Raises
    ------
    RetryableError
        S3 or DynamoDB is out of order.
    LittleTimeError
        The time is over before a part was written.
    """
    execution, deadline = event["execution"], Deadline(context)
    results = Results(
        s3=_s3,
        dynamodb=_dynamodb,
        bucket=_bucket,
        table=_table,
        # The models when the object came may be others than now.
        versions=sorted({*_versions, *execution.get("versions", ())}),
        item=Item.from_json(execution["object"]),
        names=execution["names"],
    )
    return results.write(
        event.get("state"), late=event.get("late") is True, is_over=lambda: deadline.left() < _RESERVE_SECONDS
    )
