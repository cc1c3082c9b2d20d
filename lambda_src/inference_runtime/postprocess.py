"""Handler of the postprocessing function: turns model outputs into predictions, and writes one row for each item.

Powertools earns its place here: metrics for dashboards and alarms, and logs that carry the pipeline.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit
from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.answers import answer, first_attribute
from inference_runtime.aws import MAX_CONNECTIONS, TIMEOUTS, BotocoreObjects, client
from inference_runtime.errors import RejectItem, reason_of
from inference_runtime.item import Item
from inference_runtime.rows import ResultError, prediction_attribute, put_row, row
from inference_runtime.stage import load_stage, required
from inference_runtime.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

    from inference_runtime.rows import Attribute
    from inference_runtime.tensor import Array

NAMESPACE = "cdk-inference"

_pipeline = required("PIPELINE")
_model_version = required("MODEL_VERSION")
_table = required("RESULTS_TABLE")
_ttl_days = os.environ.get("RESULT_TTL_DAYS")
_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_store = TensorStore(lambda: BotocoreObjects(_s3), required("WORK_BUCKET"))
_postprocess = load_stage()
_log = Logger(service=_pipeline)
_log.append_keys(model_version=_model_version)
_metrics = Metrics(namespace=NAMESPACE)
_metrics.set_default_dimensions(pipeline=_pipeline)


@_metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Write a row for each item.

    Parameters
    ----------
    event
        `{"items", "rejected", "groups", "inference"}`: what preprocessing and inference returned, and `model_version`
        if the inference function says it. If not absent or null, besides:

        - `only`: the indices to handle; nothing happens to others
        - `failed`: `[{"index", "reason"}]`, items that get a row that says so, unless there are outputs for them
        - `unsure`: `[{"index", "confidence"}]`, items that get no row: what the model said is returned instead
        - `confidences`: `[{"index", "confidence"}]`, for the rows
        - `first`: what was returned for an unsure item, by message id, for its row
        - `route`, `variant`: for the rows
        - `row_version`: for the sort key, if not the model's version
    context
        Unused.

    Returns
    -------
    dict
        `retry`, the ids of messages to give back to the queue, and how many rows were written that say `succeeded`,
        `rejected` and `failed`. What the table has already, a replay's, is not counted again, here or in the metrics.
        `unsure`, `[{"message_id", "answer"}]`.
    """
    batch = _Batch.from_event(event)
    outcomes, broken = _outcomes(event, batch)
    retry = (batch.handled - outcomes.keys()) | broken
    answers = [
        {"message_id": batch.items[index].message_id, "answer": batch.answer(index, outcomes.pop(index))}
        for index in sorted(batch.unsure.keys() & outcomes.keys())
    ]

    now = datetime.now(UTC)
    common = {
        "recorded_at": now.isoformat(timespec="milliseconds"),
        "expires_at": int((now + timedelta(days=float(_ttl_days))).timestamp()) if _ttl_days else None,
    }
    hanging = Event()

    def write(index: int) -> bool | None:
        return _write(batch.items[index], batch.row(index, outcomes[index], common), hanging)

    with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
        written = dict(zip(outcomes, pool.map(write, outcomes), strict=True))
    retry.update(index for index, new in written.items() if new is None)
    recorded = [index for index, new in written.items() if new]

    counts = {
        status: sum(outcomes[index]["status"] == status.upper() for index in recorded)
        for status in ("succeeded", "rejected", "failed")
    }
    for status, count in counts.items():
        _metrics.add_metric(status.capitalize(), MetricUnit.Count, count)
    _metrics.add_metric("Retried", MetricUnit.Count, len(retry))
    if event.get("unsure") is not None:  # no metric, and no price of one, where there is no cascade
        _metrics.add_metric("Escalated", MetricUnit.Count, len(answers))
    for index in recorded:
        if (latency := _latency(batch.items[index])) is not None:
            _metrics.add_metric("Latency", MetricUnit.Milliseconds, latency)
    _metrics.add_metadata("model_version", batch.model_version)
    return {"retry": [batch.items[index].message_id for index in sorted(retry)], **counts, "unsure": answers}


@dataclass(frozen=True)
class _Batch:
    """What the event says about its items, by index."""

    items: list[Item]
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
        items = [Item.from_json(value) for value in event["items"]]
        only = event.get("only")
        scored = {index for group in event["groups"] for index in group["indices"]}
        unsure = {index: sure for index, sure in _confidences(event.get("unsure")).items() if index in scored}
        return cls(
            items=items,
            handled=set(range(len(items))) if only is None else set(only),
            unsure=unsure,
            confidences=_confidences(event.get("confidences")) | unsure,
            first=event.get("first") or {},
            model_version=event.get("model_version") or _model_version,
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


def _outcomes(event: dict[str, Any], batch: _Batch) -> tuple[dict[int, dict[str, Any]], set[int]]:
    """Return status, and prediction or reason, of the items at hand; and those on which user code broke."""
    outcomes: dict[int, dict[str, Any]] = {}
    for status in ("FAILED", "REJECTED"):
        for entry in event.get(status.lower()) or ():
            outcomes[entry["index"]] = {"status": status, "reason": reason_of(entry["reason"])}
    broken: set[int] = set()
    for group in event["groups"]:
        rows = [(row, index) for row, index in enumerate(group["indices"]) if index in batch.handled]
        if not rows:
            continue
        outputs = {name: _store.load(tensor).array() for name, tensor in group["outputs"].items()}
        for position, index in rows:
            try:
                values = {name: array[position] for name, array in outputs.items()}
                outcomes[index] = _outcome(values, batch.items[index])
            except Exception:
                _log.exception("postprocessing failed", extra=_about(batch.items[index]))
                broken.add(index)
    return {index: outcome for index, outcome in outcomes.items() if index in batch.handled - broken}, broken


def _outcome(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:
    """Return status, and prediction or reason."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and (bad := array.size - int(np.isfinite(array).sum())):
            return {"status": "FAILED", "reason": f"model output {name!r} has {bad:,} values that are NaN or infinite"}
    try:
        prediction: Attribute = prediction_attribute(_postprocess(outputs, item))
    except RejectItem as error:
        return {"status": "REJECTED", "reason": reason_of(error)}
    except ResultError as error:
        return {"status": "FAILED", "reason": reason_of(error)}
    return {"status": "SUCCEEDED", "prediction": prediction}


def _write(item: Item, attributes: dict[str, Attribute], hanging: Event) -> bool | None:
    """Write a row, and say whether it is new; None if it could not be written."""
    if hanging.is_set():
        _log.error("DynamoDB did not answer to an earlier request of the batch", extra=_about(item))
        return None
    try:
        new = put_row(_dynamodb, _table, attributes)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, TIMEOUTS):
            hanging.set()
        _log.exception("cannot write the row", extra=_about(item))
        return None
    if not new:
        _log.info("the table has this result or a newer one", extra=_about(item))
    return new


def _latency(item: Item) -> float | None:
    """Milliseconds since the event, or None if its time cannot be read."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(item.event_time)).total_seconds() * 1000
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _about(item: Item) -> dict[str, str]:
    return {"object_key": f"{item.bucket}/{item.key}", "message_id": item.message_id}
