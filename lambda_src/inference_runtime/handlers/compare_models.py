"""Handler of the function that compares the answers of two models, and adds up what it finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import BotocoreObjectStore, client
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.releases.comparison import Comparison, answers_of
from inference_runtime.releases.judgement import PAIRS
from inference_runtime.tensors.store import TensorStore
from inference_runtime.tensors.tensor import arrays_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from inference_runtime.tensors.tensor import Array

_release = required("RELEASE")
_table = required("RELEASES_TABLE")
_comparison = Comparison(**json.loads(required("COMPARISON")))
_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_store = TensorStore(lambda: BotocoreObjectStore(_s3), required("WORK_BUCKET"))


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, float]:  # noqa: ARG001 - Lambda's signature
    """Compare, and add the numbers to the release's record.

    Parameters
    ----------
    event
        `{"stable": {"items", "failed", "groups"}, "candidate", "stable_ms", "candidate_ms"}`: what preprocessing and
        inference returned, and how long they took together. `candidate` is null if it did not survive
        the batch.
    context
        Unused.

    Returns
    -------
    dict
        The numbers that were added.
    """
    candidate = event["candidate"]
    counts = _comparison.counts(
        answers_of(event["stable"], _outputs(event["stable"])),
        None if candidate is None else answers_of(candidate, _outputs(candidate)),
        stable_ms=event["stable_ms"],
        candidate_ms=event["candidate_ms"],
    )
    added = {name: count for name, count in counts.items() if count}
    if added:
        _dynamodb.update_item(
            TableName=_table,
            Key={"release": {"S": _release}, "record": {"S": PAIRS}},
            UpdateExpression=f"ADD {', '.join(f'#{name} :{name}' for name in added)}",
            ExpressionAttributeNames={f"#{name}": name for name in added},
            ExpressionAttributeValues={f":{name}": {"N": f"{count:.6f}"} for name, count in added.items()},
        )
    return added


def _outputs(arm: dict[str, Any]) -> dict[int, list[Array]]:
    """Return a model's outputs by the index of the item."""
    found: dict[int, list[Array]] = {}
    for group in arm["groups"]:
        arrays = list(arrays_of({name: _store.load(tensor) for name, tensor in group["outputs"].items()}).values())
        found |= {index: [array[row] for array in arrays] for row, index in enumerate(group["indices"])}
    return found
