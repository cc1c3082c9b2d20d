"""Handler of the function that judges a release: it reads, and says what follows; the state machine writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.logs import print_metric
from inference_runtime.releases.judgement import END, Plan, Records, judge, share_after

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_release, _pipeline = required("RELEASE"), required("PIPELINE")
_table = required("RELEASES_TABLE")
_plan = Plan.parse(required("RELEASE_PLAN"))
_dynamodb: DynamoDBClient = client("dynamodb")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Judge the release, log the decision with its evidence, and record the metric ``CandidateShare``.

    Parameters
    ----------
    event
        `{"release", "now", "alarms"}`: the release that asks, the milliseconds since the epoch by the clock of whoever
        asks, and `[{"name", "state"}]`, the alarms that exist.
    context
        Unused.

    Returns
    -------
    dict
        The answer of `judge`, or ``end`` if another release has been deployed since.
    """
    if event["release"] != _release:
        return {"decision": END, "reason": f"the release {_release} has been deployed since", "step": 0}
    alarms = {alarm["name"]: alarm["state"] for alarm in event["alarms"]}
    records = _records()
    said = judge(_plan, records, alarms, now=event["now"])
    line = {"pipeline": _pipeline, "release": _release, "release_status": records.status, **said}
    print_metric(line, "CandidateShare", share_after(_plan, records, said["decision"]), dimensions=["pipeline"])
    return said


def _records() -> Records:
    items = _dynamodb.query(
        TableName=_table,
        KeyConditionExpression="#release = :release",
        ExpressionAttributeNames={"#release": "release"},
        ExpressionAttributeValues={":release": {"S": _release}},
        ConsistentRead=True,
    )["Items"]
    return Records.parse(items)
