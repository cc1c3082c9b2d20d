"""Handler of the preprocessing function: reads objects and turns them into batches of model inputs.

Logs with the standard library. This is the first function that every object meets. Powertools would add 50 to 90 ms to
its cold start for a log format that Lambda has itself.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import BotocoreObjectStore, client
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.inputs import group_by_shape
from inference_runtime.stages.item import message_id_of
from inference_runtime.stages.preprocessor import Batch, Preprocessor
from inference_runtime.stages.s3_source import S3Source
from inference_runtime.tensors.store import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_s3 import S3Client

    from inference_runtime.tensors.tensor import Array

RESPONSE_LIMIT = 180_000
"""Most bytes of the response as JSON, of the 262,144 that a workflow state may hold; the results need the rest.

First answers of a cascade count too: they go where the response goes.
"""

_s3: S3Client = client("s3")
_store = TensorStore(lambda: BotocoreObjectStore(_s3), required("WORK_BUCKET"))
_preprocessor = Preprocessor.from_environment(S3Source(_s3))


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Turn messages into model inputs.

    Parameters
    ----------
    event
        `{"messages": [{"message_id", "body"}]}`, or messages of the other forms that `Item.from_message` reads. In a
        cascade's second part a message has its `first` answer besides. With `"isolate": true`, items are preprocessed
        in another process.
    context
        Lambda's: items are preprocessed only while there is time.

    Returns
    -------
    dict
        `items` that get a row; `groups` of items with inputs of one shape, `[{"indices", "inputs": {name: tensor}}]`.
        A group has `explain`, the only indices whose answers may be explained, if these are not all. `rejected` items,
        `[{"index", "reason"}]`; `retry`, `failed` and `unfinished` messages, see `Batch`. Indices point into `items`. A
        message in none of them is done: a duplicate, or superseded by a newer object.
    """
    batch = Batch()
    isolate = event.get("isolate") is True
    scored = list(_preprocessor.inputs(event["messages"], batch, deadline=Deadline(context), isolate=isolate))
    items = [item.to_json() for item in batch.items]
    if "DRIFT_INPUTS" in os.environ:
        _observe(items, scored)
    response = {
        "items": items,
        "rejected": batch.rejected,
        "retry": batch.retry,
        "failed": batch.failed,
        "unfinished": batch.unfinished,
    }
    first = {message_id_of(message): message["first"] for message in event["messages"] if message.get("first")}
    limit = RESPONSE_LIMIT - (len(json.dumps(first)) if first else 0)
    answer = _store.dump_groups(response, group_by_shape(scored), "inputs", limit)
    if batch.asked or ("EXPLAIN" in os.environ and isolate):
        for group in answer["groups"]:
            group["explain"] = [index for index in group["indices"] if index in batch.asked]
    return answer


def _observe(items: list[dict[str, Any]], scored: Iterable[tuple[int, dict[str, Array]]]) -> None:
    """Add to each item what the drift monitor counts of its inputs."""
    from inference_runtime.monitoring.observations import bins_of, observed_in  # noqa: PLC0415 - only with a monitor

    observed = observed_in("DRIFT_INPUTS")
    for index, arrays in scored:
        items[index]["bins"] = bins_of(observed, arrays)
