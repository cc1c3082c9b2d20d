"""Handler of the postprocessing function: turns model outputs into predictions, and writes one row for each item.

Powertools earns its place here: metrics for dashboards and alarms, and logs that carry the pipeline.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit
from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import MAX_CONNECTIONS, TIMEOUTS, client
from inference_runtime.errors import RejectItem, reason_of
from inference_runtime.item import Item
from inference_runtime.rows import ResultError, prediction_attribute, put_row, row
from inference_runtime.stage import load_stage, required
from inference_runtime.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.rows import Attribute
    from inference_runtime.tensors import Array

NAMESPACE = "cdk-inference"

_pipeline = required("PIPELINE")
_model_version = required("MODEL_VERSION")
_table = required("RESULTS_TABLE")
_ttl_days = os.environ.get("RESULT_TTL_DAYS")
_dynamodb: DynamoDBClient = client("dynamodb")
_store = TensorStore(client("s3"), required("WORK_BUCKET"))
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
        if the inference function says it.
    context
        Unused.

    Returns
    -------
    dict
        `retry`, the ids of messages to give back to the queue, and how many rows were written that say `succeeded`,
        `rejected` and `failed`. What the table has already, a replay's, is not counted again, here or in the metrics.
    """
    items = [Item.from_json(value) for value in event["items"]]
    outcomes: dict[int, dict[str, Any]] = {
        entry["index"]: {"status": "REJECTED", "reason": entry["reason"]} for entry in event["rejected"]
    }
    retry = set(range(len(items))) - outcomes.keys()
    for group in event["groups"]:
        outputs = {name: _store.load(tensor) for name, tensor in group["outputs"].items()}
        for position, index in enumerate(group["indices"]):
            try:
                outcomes[index] = _outcome({name: array[position] for name, array in outputs.items()}, items[index])
            except Exception:
                _log.exception("postprocessing failed", extra=_about(items[index]))
            else:
                retry.discard(index)

    model_version = event.get("model_version") or _model_version
    now = datetime.now(UTC)
    common = {
        "model_version": model_version,
        "inference": event["inference"],
        "recorded_at": now.isoformat(timespec="milliseconds"),
        "expires_at": int((now + timedelta(days=float(_ttl_days))).timestamp()) if _ttl_days else None,
    }
    hanging = Event()
    with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
        writes = pool.map(
            lambda index: _write(items[index], row(items[index], **outcomes[index], **common), hanging), outcomes
        )
        written = dict(zip(outcomes, writes, strict=True))
    retry.update(index for index, new in written.items() if new is None)
    recorded = [index for index, new in written.items() if new]

    counts = {
        status: sum(outcomes[index]["status"] == status.upper() for index in recorded)
        for status in ("succeeded", "rejected", "failed")
    }
    for status, count in counts.items():
        _metrics.add_metric(status.capitalize(), MetricUnit.Count, count)
    _metrics.add_metric("Retried", MetricUnit.Count, len(retry))
    for index in recorded:
        if (latency := _latency(items[index])) is not None:
            _metrics.add_metric("Latency", MetricUnit.Milliseconds, latency)
    _metrics.add_metadata("model_version", model_version)
    return {"retry": [items[index].message_id for index in sorted(retry)], **counts}


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
