"""Turns model outputs into predictions, and writes the rows: what the postprocessing function does, and a fused one."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit

from inference_runtime.environment import required
from inference_runtime.errors import RejectItem, RetryableError, StageError, failure_of, reason_of
from inference_runtime.stages.rows import ResultError, prediction_attribute, with_label
from inference_runtime.stages.sinks import NeverWrittenError, NotWrittenError, SinkTimeoutError
from inference_runtime.stages.user_code import load_stage
from inference_runtime.timeouts import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.engine.interfaces import TextEnds
    from inference_runtime.monitoring.counter import Bins, DriftCounter
    from inference_runtime.stages.deadline import Deadline
    from inference_runtime.stages.dynamo_sink import DynamoSink
    from inference_runtime.stages.item import Item
    from inference_runtime.stages.rows import Attribute
    from inference_runtime.stages.sinks import ResultSink
    from inference_runtime.tensors.tensor import Array

    Outcome = dict[str, Any]
    """Status, and prediction or reason, as `rows.row` takes them."""

NAMESPACE = "cdk-inference"


class Postprocessor:
    """Turns model outputs into predictions, writes rows, and counts them.

    Parameters
    ----------
    sink
        Where rows go.
    ttl_days
        Days until DynamoDB may delete a row; None if it stays.
    function
        The user's: `function(outputs, item) -> dict`.
    pipeline
        The pipeline that metrics and logs belong to.
    recorded_by
        ``"route"`` and ``"variant"``, if these have separate metrics besides those of the pipeline.
    drift
        Counts what objects and answers are like, if the pipeline has a drift monitor.
    hashed
        Adds the hash of the answer to a row, if the pipeline has an audit log.
    labelled
        Whether a row has its label as an attribute, since the table has an index of labels.

    Attributes
    ----------
    metrics
        Is flushed by its decorator around the handler.
    drift
        As given.
    """

    def __init__(
        self,
        *,
        sink: ResultSink,
        ttl_days: float | None,
        function: Callable[[Mapping[str, Array], Item], object],
        pipeline: str,
        recorded_by: Collection[str] = (),
        drift: DriftCounter | None = None,
        hashed: Callable[[dict[str, Attribute]], dict[str, Attribute]] | None = None,
        labelled: bool = False,
    ) -> None:
        self.drift = drift
        self._labelled = labelled
        self._hashed = hashed
        self._sink = sink
        self._ttl = None if ttl_days is None else timedelta(days=ttl_days)
        self._function = function
        self._recorded_by = recorded_by
        self._log = Logger(service=pipeline)
        self.metrics = Metrics(namespace=NAMESPACE)
        self.metrics.set_default_dimensions(pipeline=pipeline)

    @classmethod
    def from_environment(
        cls, dynamodb: DynamoDBClient | None, prefix: str = "STAGE", *, sink: ResultSink | None = None
    ) -> Postprocessor:
        """Return what the function's environment describes.

        Parameters
        ----------
        dynamodb
            Thread-safe client; None where rows go elsewhere.
        prefix
            The beginning of the names of the user code's variables, see `load_stage`.
        sink
            Where rows go. Default: to the results table.

        Raises
        ------
        StageError
            If it is configured wrongly.
        """
        days = os.environ.get("RESULT_TTL_DAYS")
        return cls(
            pipeline=required("PIPELINE"),
            sink=sink if sink is not None else _table(dynamodb),
            ttl_days=float(days) if days else None,
            function=load_stage(prefix),
            recorded_by=[name for name in ("route", "variant") if f"{name.upper()}_METRICS" in os.environ],
            drift=_drift_counter(dynamodb),
            hashed=_with_answer_hash(),
            labelled="LABEL_INDEX" in os.environ,
        )

    def log_as(self, model_version: str) -> None:
        """Have log lines name the model from here on."""
        self._log.append_keys(model_version=model_version)

    def text_end(self, item: Item) -> TextEnds | None:
        """Return what begins to tell of each token of an item whether its text ends, for a stage that knows it."""
        begins: Callable[[Item], TextEnds | None] | None = getattr(self._function, "text_end", None)
        return None if begins is None else begins(item)

    def outcomes(
        self, outputs: Mapping[str, Array], rows: Iterable[tuple[int, int]], items: Sequence[Item]
    ) -> tuple[dict[int, Outcome], dict[int, BaseException]]:
        """Return the outcomes of items, and what user code raised for others, by index.

        Parameters
        ----------
        outputs
            The outputs of a batch, by name.
        rows
            Which row of the outputs belongs to which index.
        items
            By index.

        Raises
        ------
        RetryableError
            If a service that the stage needs does not answer: the items are not at fault.
        """
        found: dict[int, Outcome] = {}
        broken: dict[int, BaseException] = {}
        for position, index in rows:
            try:
                found[index] = self._outcome({name: array[position] for name, array in outputs.items()}, items[index])
            except RetryableError:
                raise
            except Exception as error:
                self._log.exception("postprocessing failed", extra=_about(items[index]))
                broken[index] = error
        return found, broken

    def observe(
        self,
        outputs: Mapping[str, Array],
        rows: Iterable[tuple[int, int]],
        outcomes: Mapping[int, Outcome],
        input_bins: Mapping[int, Sequence[int]],
    ) -> dict[int, Bins]:
        """Return what the drift monitor counts of items, by index; nothing without a monitor, or of failed items.

        Parameters
        ----------
        outputs, rows
            As those of `outcomes`.
        outcomes
            The outcomes that it returned.
        input_bins
            The bins of the inputs, by index.
        """
        if self.drift is None:
            return {}
        return {
            index: self.drift.bins({name: array[row] for name, array in outputs.items()}, input_bins.get(index, ()))
            for row, index in rows
            if index in outcomes and outcomes[index]["status"] != "FAILED"
        }

    def _outcome(self, outputs: Mapping[str, Array], item: Item) -> Outcome:
        for name, array in outputs.items():
            if array.dtype.kind == "f" and (bad := array.size - int(np.isfinite(array).sum())):
                reason = f"model output {name!r} has {bad:,} values that are NaN or infinite"
                return {"status": "FAILED", "reason": reason}
        try:
            prediction: Attribute = prediction_attribute(self._function(outputs, item))
        except RejectItem as error:
            return {"status": "REJECTED", "reason": reason_of(error)}
        except ResultError as error:
            return {"status": "FAILED", "reason": reason_of(error)}
        return {"status": "SUCCEEDED", "prediction": prediction}

    def record(
        self,
        items: Sequence[Item],
        outcomes: Mapping[int, Outcome],
        row: Callable[[int, dict[str, Any]], dict[str, Attribute]],
        *,
        broken: Mapping[int, BaseException],
        model_version: str,
        deadline: Deadline,
        escalated: Collection[int] | None = None,
        observed: Mapping[int, Bins] | None = None,
        route: str | None = None,
        variant: str | None = None,
        rows: bool = True,
    ) -> dict[str, Any]:
        """Write the rows, and add the metrics.

        An item that is not written in time goes back to the queue. DynamoDB may still do a write that it did
        not answer; then the next try finds the row.

        Parameters
        ----------
        items
            By index.
        outcomes
            Those to write, by index.
        row
            Returns the row of an item: takes its index, and what all rows have in common.
        broken
            The earlier failures of items, by index.
        model_version
            The version of the model that ran.
        deadline
            The deadline of the invocation.
        escalated
            The items that go on to a better model, by index; None where there is no cascade.
        observed
            The bins that the drift monitor counts, by index. It counts an item when its row is new, and each time that
            it goes on.
        route, variant
            Those of the rows.
        rows
            Whether to write rows; otherwise each item counts as written.

        Raises
        ------
        LittleTimeError
            If there are rows to write and it is too late to begin; nothing is written then.

        Returns
        -------
        dict
            `retry`, the ids of messages whose rows could not be written now. `failures`, `[{"message_id", "error",
            "cause"}]`, the broken ones and those whose rows the table never takes. How many rows were written that say
            `succeeded`, `rejected` and `failed`.
        """
        if outcomes:  # otherwise there are only failures to tell, for which it is never too late
            deadline.check()
        now = datetime.now(UTC)
        common = {
            "recorded_at": now.isoformat(timespec="milliseconds"),
            "expires_at": None if self._ttl is None else int((now + self._ttl).timestamp()),
        }
        hanging = Event()

        def write(index: int) -> bool | BaseException | None:
            return self._write(items[index], row(index, common), hanging, deadline)

        written = self._all(write, outcomes, items, deadline) if rows else dict.fromkeys(outcomes, True)
        again = sorted(index for index, new in written.items() if new is None)
        failed = {**broken, **{index: new for index, new in written.items() if isinstance(new, BaseException)}}
        recorded = [index for index, new in written.items() if new is True]
        counts = {
            status: sum(outcomes[index]["status"] == status.upper() for index in recorded)
            for status in ("succeeded", "rejected", "failed")
        }
        passed_on = None if escalated is None else len(escalated)
        self._count(counts, [items[index] for index in recorded], len(again) + len(failed), passed_on)
        for name, value in (("route", route), ("variant", variant)):
            if value is not None and name in self._recorded_by:
                self.metrics.add_dimensions(**{name: _ascii(value)})
        if self.drift is not None and observed is not None and deadline.left() > 0:
            seen = [observed[index] for index in (*recorded, *(escalated or ())) if index in observed]
            others = {"rejected": counts["rejected"], "failed": counts["failed"], "escalated": passed_on or 0}
            self.drift.add(seen, others)
        self.metrics.add_metadata("model_version", model_version)
        return {
            "retry": [items[index].message_id for index in again],
            "failures": [failure_of(items[index].message_id, failed[index]) for index in sorted(failed)],
            **counts,
        }

    def _all(
        self,
        write: Callable[[int], bool | BaseException | None],
        indices: Iterable[int],
        items: Sequence[Item],
        deadline: Deadline,
    ) -> dict[int, bool | BaseException | None]:
        """Write rows, several at a time, and return what `write` did by index; None where it took too long."""
        pool = ThreadPoolExecutor(MAX_CONNECTIONS)
        try:
            writes = {index: pool.submit(write, index) for index in indices}
            left = deadline.left()
            _, late = wait(writes.values(), None if math.isinf(left) else max(0.0, left))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for index, write_ in writes.items():
            if write_ in late:
                self._log.error("DynamoDB did not answer in time", extra=_about(items[index]))
        return {index: None if write_ in late else write_.result() for index, write_ in writes.items()}

    def _count(self, counts: Mapping[str, int], recorded: Iterable[Item], retried: int, escalated: int | None) -> None:
        """Add the metrics of a batch. Powertools would keep those that it is told not to write."""
        if os.environ.get("POWERTOOLS_METRICS_DISABLED", "").lower() == "true":
            return
        for status, count in counts.items():
            self.metrics.add_metric(status.capitalize(), MetricUnit.Count, count)
        self.metrics.add_metric("Retried", MetricUnit.Count, retried)
        if escalated is not None:  # no metric, and no price of one, where there is no cascade
            self.metrics.add_metric("Escalated", MetricUnit.Count, escalated)
        for item in recorded:
            if (latency := _latency(item)) is not None:
                self.metrics.add_metric("Latency", MetricUnit.Milliseconds, latency)

    def _write(
        self, item: Item, attributes: dict[str, Attribute], hanging: Event, deadline: Deadline
    ) -> bool | BaseException | None:
        """Write a row, and say whether it is new; None if that is not possible now, or the error if it never is."""
        if deadline.left() <= 0:
            return None
        if hanging.is_set():
            self._log.error("DynamoDB did not answer to an earlier request of the batch", extra=_about(item))
            return None
        if self._hashed is not None:
            attributes = self._hashed(attributes)
        if self._labelled:
            attributes = with_label(attributes)
        try:
            new = self._sink.write(attributes)
        except NotWrittenError as error:
            if isinstance(error, SinkTimeoutError):
                hanging.set()
            self._log.exception("cannot write the row", extra=_about(item))
            return None
        except NeverWrittenError as error:
            self._log.exception("cannot write the row", extra=_about(item))
            return error.__cause__ or error
        if not new:
            self._log.info("the table has this result or a newer one", extra=_about(item))
        return new


def _table(dynamodb: DynamoDBClient | None) -> DynamoSink:
    if dynamodb is None:
        raise StageError("rows must go to a sink or to DynamoDB, got neither")
    from inference_runtime.stages.dynamo_sink import DynamoSink  # noqa: PLC0415 - elsewhere there is no botocore

    return DynamoSink(dynamodb, required("RESULTS_TABLE"))


def _drift_counter(dynamodb: DynamoDBClient | None) -> DriftCounter | None:
    if "DRIFT_TABLE" not in os.environ:
        return None
    if dynamodb is None:
        raise StageError("DRIFT_TABLE must be left out where rows go elsewhere than to DynamoDB")
    from inference_runtime.monitoring.counter import DriftCounter  # noqa: PLC0415 - only with a drift monitor

    return DriftCounter.from_environment(dynamodb)


def _with_answer_hash() -> Callable[[dict[str, Attribute]], dict[str, Attribute]] | None:
    if "ANSWER_HASH" not in os.environ:
        return None
    from inference_runtime.audit.answers import with_answer_hash  # noqa: PLC0415 - only with an audit log

    return with_answer_hash


def _ascii(value: str) -> str:
    """Return the value of a dimension, which must be ASCII; the constructs name it alike."""
    return value.encode("ascii", "backslashreplace").decode()


def _latency(item: Item) -> float | None:
    """Milliseconds since the event, or None if its time cannot be read."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(item.event_time)).total_seconds() * 1000
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None


def _about(item: Item) -> dict[str, str]:
    return {"object_key": f"{item.bucket}/{item.key}", "message_id": item.message_id}
