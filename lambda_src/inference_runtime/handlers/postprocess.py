"""Handler of the postprocessing function: turns model outputs into predictions, and writes one row for each item.

Powertools earns its place here: metrics for dashboards and alarms, and logs that carry the pipeline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference_runtime.aws import BotocoreObjectStore, client
from inference_runtime.environment import required
from inference_runtime.errors import StageError, reason_of
from inference_runtime.lifecycle import answers_warming
from inference_runtime.stages.answers import ANSWERS_ONLY, answers_of
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.first_answers import answer, first_attribute
from inference_runtime.stages.item import Item
from inference_runtime.stages.postprocessor import Postprocessor
from inference_runtime.stages.rows import row, with_explanations
from inference_runtime.tensors.store import TensorStore
from inference_runtime.tensors.tensor import arrays_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from inference_runtime.monitoring.counter import Bins
    from inference_runtime.stages.postprocessor import Outcome
    from inference_runtime.stages.rows import Attribute

INPUT_BINS = "bins"
"""Member of an item in which preprocessing says what the drift monitor counts of its inputs."""

RESPONSE_BYTES = 100_000
"""Largest body of a response: as a string in JSON, it may become twice as long in a state of 262,144."""

_s3: S3Client = client("s3")
_store = TensorStore(lambda: BotocoreObjectStore(_s3), required("WORK_BUCKET"))
_postprocessor = Postprocessor.from_environment(client("dynamodb"))


@answers_warming
@_postprocessor.metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Write a row for each item.

    Parameters
    ----------
    event
        `{"items", "rejected", "groups", "inference", "model_version"}`: what preprocessing and inference returned. If
        not absent or null, besides:

        - `only`: the indices to handle; nothing happens to others
        - `failed`: `[{"index", "reason"}]`, items that get a row that says so, unless there are outputs for them
        - `unsure`: `[{"index", "confidence"}]`, items that get no row: what the model said is returned instead
        - `confidences`: `[{"index", "confidence"}]`, for the rows
        - `explanations`: `[{"indices", "explanation"}]`, for the rows
        - `first`: what was returned for an unsure item, by message id, for its row
        - `route`, `variant`: for the rows
        - `row_version`: for the sort key, if not the model's version
        - `answers`: ``"only"`` for a response without rows, ``"rows"`` for one with rows; `prepared` then has what
          else preprocessing returned
    context
        Lambda's: rows are written only while there is time to say so.

    Returns
    -------
    dict
        `retry`, the ids of messages whose rows could not be written now. `failures`, `[{"message_id", "error",
        "cause"}]`: what user code broke on, what has no output, and rows that the table never takes. How many rows were
        written that say `succeeded`, `rejected` and `failed`. The table has a replay's rows already, so neither this
        nor the metrics count them again. `unsure`, `[{"message_id", "answer"}]`. `response`, `{"statusCode", "body"}`,
        if the event asks for answers.
    """
    deadline = Deadline(context)
    batch = _Batch.from_event(event)
    _postprocessor.log_as(batch.model_version)
    outcomes, broken, observed = _outcomes(event, batch)
    for index in batch.handled - outcomes.keys() - broken.keys():
        broken[index] = StageError("inference returned nothing for the object")
    given = {index: each["explanation"] for each in event.get("explanations") or () for index in each["indices"]}
    outcomes = with_explanations(outcomes, given) if given else outcomes
    unsure = sorted(batch.unsure.keys() & outcomes.keys())
    answers = [
        {"message_id": batch.items[index].message_id, "answer": batch.answer(index, outcomes.pop(index))}
        for index in unsure
    ]
    recorded = _postprocessor.record(
        batch.items,
        outcomes,
        lambda index, common: batch.row(index, outcomes[index], common),
        broken=broken,
        model_version=batch.model_version,
        deadline=deadline,
        escalated=None if event.get("unsure") is None else unsure,
        observed=observed,
        route=batch.route,
        variant=batch.variant,
        rows=event.get("answers") != ANSWERS_ONLY,
    )
    response = {"response": _response(event, batch, outcomes, recorded)} if event.get("answers") else {}
    return {**recorded, "unsure": answers, **response}


def _response(
    event: dict[str, Any], batch: _Batch, outcomes: dict[int, Outcome], recorded: dict[str, Any]
) -> dict[str, Any]:
    """Return the response to the one request of a batch, after what preprocessing said about it."""
    from inference_runtime.http.requests import outcome  # noqa: PLC0415 - most pipelines have no API

    prepared = event["prepared"]
    said = {"model_version": batch.model_version, "inference": batch.inference}
    status, body = outcome(
        {
            "retry": [*prepared["retry"], *recorded["retry"]],
            "unfinished": prepared["unfinished"],
            "failures": [*prepared["failed"], *recorded["failures"]],
            "answers": answers_of(batch.items, outcomes, said),
        },
        most_bytes=RESPONSE_BYTES,
    )
    return {"statusCode": int(status), "body": json.dumps(body)}


@dataclass(frozen=True)
class _Batch:
    """The part of the event about its items, by index."""

    items: list[Item]
    input_bins: dict[int, list[int]]
    handled: set[int]
    unsure: dict[int, float]
    confidences: dict[int, float]
    first: dict[str, Any]
    model_version: str
    inference: str
    route: str | None
    variant: str | None
    row_version: str | None

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> _Batch:
        input_bins = {index: value.pop(INPUT_BINS, ()) for index, value in enumerate(event["items"])}
        items = [Item.from_json(value) for value in event["items"]]
        only = event.get("only")
        scored = {index for group in event["groups"] for index in group["indices"]}
        unsure = {index: sure for index, sure in _confidences(event.get("unsure")).items() if index in scored}
        return cls(
            items=items,
            input_bins=input_bins,
            handled=set(range(len(items))) if only is None else set(only),
            unsure=unsure,
            confidences=_confidences(event.get("confidences")) | unsure,
            first=event.get("first") or {},
            model_version=event["model_version"],
            inference=event["inference"],
            route=event.get("route"),
            variant=event.get("variant"),
            row_version=event.get("row_version"),
        )

    def answer(self, index: int, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return what the model said of an item."""
        return answer(
            _store,
            route=self.route,
            row_version=self._row_version(index) or self.model_version,
            model_version=self.model_version,
            inference=self.inference,
            confidence=self.confidences.get(index),
            prediction=outcome.get("prediction"),
            reason=outcome.get("reason"),
        )

    def row(self, index: int, outcome: dict[str, Any], common: dict[str, Any]) -> dict[str, Attribute]:
        """Return an item's row."""
        given = self.first.get(self.items[index].message_id)
        return row(
            self.items[index],
            **outcome,
            **common,
            model_version=self.model_version,
            inference=self.inference,
            route=self.route,
            variant=self.variant,
            row_version=self._row_version(index),
            confidence=self.confidences.get(index),
            first=first_attribute(_store, given, outcome.get("prediction")) if given else None,
        )

    def _row_version(self, index: int) -> str | None:
        # The first answer's: the two models of a cascade write the same row, also across a deployment.
        given = self.first.get(self.items[index].message_id) or {}
        return given.get("row_version") or self.row_version


def _confidences(entries: list[dict[str, Any]] | None) -> dict[int, float]:
    return {entry["index"]: entry["confidence"] for entry in entries or ()}


def _outcomes(
    event: dict[str, Any], batch: _Batch
) -> tuple[dict[int, Outcome], dict[int, BaseException], dict[int, Bins]]:
    """Return the outcomes of the items at hand, what user code raised for others, and what is counted, by index."""
    outcomes: dict[int, Outcome] = {}
    for status in ("FAILED", "REJECTED"):
        for entry in event.get(status.lower()) or ():
            outcomes[entry["index"]] = {"status": status, "reason": reason_of(entry["reason"])}
    broken: dict[int, BaseException] = {}
    observed: dict[int, Bins] = {}
    for group in event["groups"]:
        rows = [(row, index) for row, index in enumerate(group["indices"]) if index in batch.handled]
        if not rows:
            continue
        outputs = arrays_of({name: _store.load(tensor) for name, tensor in group["outputs"].items()})
        found, lost = _postprocessor.outcomes(outputs, rows, batch.items)
        outcomes |= found
        broken |= lost
        # Items that another model passed on are like no baseline.
        own = [(row, index) for row, index in rows if batch.items[index].message_id not in batch.first]
        observed |= _postprocessor.observe(outputs, own, found, batch.input_bins)
    kept = {index: outcome for index, outcome in outcomes.items() if index in batch.handled - broken.keys()}
    return kept, broken, observed
