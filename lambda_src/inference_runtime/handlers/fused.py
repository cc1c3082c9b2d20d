"""Handler of a fused function: reads objects, runs the model on the CPU, and writes one row for each item.

The three stages in one process, by the same classes that their own handlers use: what differs is that tensors do not
travel.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from inference_runtime.anywhere.opening import open_sink, open_source
from inference_runtime.engine.confidence import confidences
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.environment import required
from inference_runtime.explanations.explainer import Explainer
from inference_runtime.http.proxy import answers_requests
from inference_runtime.lifecycle import answers_warming, prepare
from inference_runtime.logs import add_to_log_lines
from inference_runtime.stages.answers import ANSWERS_ONLY, answers_of
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.inputs import group_by_shape
from inference_runtime.stages.postprocessor import Postprocessor
from inference_runtime.stages.preprocessor import Batch, Preprocessor
from inference_runtime.stages.rows import row, with_explanations
from inference_runtime.tensors.tensor import arrays_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.explanations.explainer import Explanations
    from inference_runtime.monitoring.counter import Bins
    from inference_runtime.stages.item import Item
    from inference_runtime.stages.postprocessor import Outcome
    from inference_runtime.stages.rows import Attribute
    from inference_runtime.tensors.tensor import Array, Tensor

    Inputs = tuple[int, dict[str, Array]]
    """An item's index, and its inputs by name."""

MOST_INPUT_BYTES = 32 * 1024**2
"""Bytes of inputs that wait for the model at most, and one item: a batch of large objects takes no more memory."""

READING = 0.6
"""Share of the time that several items may take before they are scored: the model and the rows need the rest."""

EXPLAINING = 0.5
"""Share of the time that is left after that which explanations may take: the rows need the rest."""


def _client() -> DynamoDBClient:
    from inference_runtime.aws import client  # noqa: PLC0415 - elsewhere there is no botocore

    found: DynamoDBClient = client("dynamodb")
    return found


_version = required("MODEL_VERSION")
add_to_log_lines(model_version=_version)
engine = LocalEngine()
_with_confidence = os.environ.get("CONFIDENCE") == "1"
_explainer = Explainer.from_environment(engine.infer) if "EXPLANATION_SETTINGS" in os.environ else None
_on_request = os.environ.get("EXPLAIN") == "on_request"
_preprocessor = Preprocessor.from_environment(open_source(), "PREPROCESS")
_sink = open_sink()  # none in Lambda, where rows go to the results table
_dynamodb = _client() if _sink is None else None
_postprocessor = Postprocessor.from_environment(_dynamodb, "POSTPROCESS", sink=_sink)
_postprocessor.log_as(_version)
prepare(engine.warm_up)


@answers_warming
@answers_requests
@_postprocessor.metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write a row for each message's object.

    Parameters
    ----------
    event
        `{"messages", "isolate"}`, as those of preprocessing. If not absent or null, besides: `route` and `variant`, for
        the rows; `answers`, as that of postprocessing. Or a request of API Gateway, see `answers_requests`.
    context
        Lambda's: rows are written only while there is time to say so.

    Returns
    -------
    dict
        `retry`, `failures` and how many rows were written that say `succeeded`, `rejected` and `failed`, as
        postprocessing returns them. `unfinished`, the ids of messages that were not begun for want of time. `answers`,
        if the event asks for them.

    Raises
    ------
    LittleTimeError
        If the function's time is nearly over; then there are no rows.
    """
    deadline = Deadline(context)
    engine.start_deadline(deadline.left())
    batch = Batch()
    outcomes: dict[int, Outcome] = {}
    broken: dict[int, BaseException] = {}
    sure: dict[int, float] = {}
    scored = False
    # Closed also if the model fails: objects that are being read belong to this invocation.
    isolate = event.get("isolate") is True
    reading = _preprocessor.inputs(event["messages"], batch, deadline=deadline, share=READING, isolate=isolate)
    input_bins: dict[int, list[int]] = {}
    observed: dict[int, Bins] = {}
    explanations = None if _explainer is None or isolate else _explainer.begin()
    run = partial(_run, items=batch.items, explanations=explanations, asked=batch.asked if _on_request else None)
    with closing(reading) as inputs:
        for indices, outputs in chain.from_iterable(map(run, _parts(_noted(inputs, input_bins)))):
            scored = True
            if _with_confidence:
                sure.update(zip(indices, confidences(outputs[engine.output_names[0]]), strict=True))
            arrays = arrays_of(outputs)
            found, lost = _postprocessor.outcomes(arrays, enumerate(indices), batch.items)
            outcomes |= found
            broken |= lost
            observed |= _postprocessor.observe(arrays, enumerate(indices), found, input_bins)
    if explanations is not None:
        outcomes = with_explanations(outcomes, explanations.made(deadline.left() * EXPLAINING))
    outcomes |= {each["index"]: {"status": "REJECTED", "reason": each["reason"]} for each in batch.rejected}

    said: dict[str, Any] = {
        "model_version": _version,
        "inference": engine.inference if scored else "none",
        "route": event.get("route"),
        "variant": event.get("variant"),
    }

    def make_row(index: int, common: dict[str, Any]) -> dict[str, Attribute]:
        return row(batch.items[index], **outcomes[index], **common, **said, confidence=sure.get(index))

    recorded = _postprocessor.record(
        batch.items,
        outcomes,
        make_row,
        broken=broken,
        model_version=_version,
        deadline=deadline,
        observed=observed,
        route=said["route"],
        variant=said["variant"],
        rows=event.get("answers") != ANSWERS_ONLY,
    )
    return {
        **recorded,
        "retry": [*batch.retry, *recorded["retry"]],
        "failures": [*batch.failed, *recorded["failures"]],
        "unfinished": batch.unfinished,
        **({"answers": answers_of(batch.items, outcomes, said)} if event.get("answers") else {}),
    }


def _noted(inputs: Iterable[Inputs], bins: dict[int, list[int]]) -> Iterator[Inputs]:
    """Yield the items, and note what the drift monitor counts of their inputs, if there is one."""
    for index, arrays in inputs:
        if _postprocessor.drift is not None:
            bins[index] = _postprocessor.drift.inputs_of(arrays)
        yield index, arrays


def _parts(inputs: Iterable[Inputs]) -> Iterator[list[Inputs]]:
    """Yield the items in parts, each as soon as its inputs are as large as may be."""
    part: list[Inputs] = []
    size = 0
    for index, arrays in inputs:
        part.append((index, arrays))
        size += sum(array.nbytes for array in arrays.values())
        if size >= MOST_INPUT_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _run(
    part: list[Inputs], items: Sequence[Item], explanations: Explanations | None, asked: Collection[int] | None
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield indices and outputs of each run of the model, so that those of one are in memory at a time."""
    for indices, inputs in group_by_shape(part):
        done, began = 0, time.monotonic()
        for outputs in engine.runs(inputs, [_postprocessor.text_end(items[index]) for index in indices]):
            seconds = time.monotonic() - began
            count = len(outputs[engine.output_names[0]])
            if explanations is not None:
                rows = {name: tensor.rows(done, done + count) for name, tensor in inputs.items()}
                explanations.add(indices[done : done + count], rows, outputs, asked, seconds=seconds)
            yield indices[done : done + count], outputs
            done, began = done + count, time.monotonic()
