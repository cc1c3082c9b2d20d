"""Runs a postprocessing function on the outputs for one object, and makes its row, as the function in AWS does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cdk_inference.client import Result
from cdk_inference.common.props.validation import check_above_zero
from cdk_inference.errors import PropError
from cdk_inference.testing.errors import StageFailedError
from cdk_inference.testing.model import LocalModel
from cdk_inference.testing.objects import DEFAULT_TIMEOUT, Invocation, StoredObject
from cdk_inference.testing.stage import environment, load
from cdk_inference.testing.timer import kept_alarm
from inference_runtime.errors import LittleTimeError, StageError
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.dynamo_sink import DynamoSink
from inference_runtime.stages.item import Item
from inference_runtime.stages.kept import take_kept
from inference_runtime.stages.postprocessor import Postprocessor
from inference_runtime.stages.rows import row, with_explanations
from inference_runtime.stages.time_limit import TookTooLongError, call_within
from inference_runtime.tensors.tensor import Tensor, arrays_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mypy_boto3_dynamodb import DynamoDBClient

    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.testing.model import ModelSource
    from cdk_inference.testing.stage import Stage
    from inference_runtime.tensors.tensor import Array

NO_MODEL = "none"
"""The version of the model, where none is given."""

_SERVICE = "cdk-inference-testing"


def run_postprocess(
    stage: Postprocess | Callable[[Mapping[str, Array], Item], object] | str | Path,
    outputs: Mapping[str, Array],
    *,
    model: ModelSource | None = None,
    item: Item | None = None,
    key: str = "object",
    bucket: str = "inbox",
    kept: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Result:
    """Postprocess a model's outputs for one object by the code that runs in AWS, and return the row.

    Parameters
    ----------
    stage
        ``path/to/file.py:function``, the function itself, or a `Postprocess` as your app has it.
    outputs
        NumPy arrays by output name, without the batch axis. The function gets read-only copies, as in AWS.
    model
        The model whose outputs these are, as that of `run_preprocess`. Default: its outputs are not checked.
    item
        The object that they are of, such as `Preprocessed.item`. Default: one with this key and bucket.
    key, bucket
        Name the object, if there is no item.
    kept
        The values that preprocessing kept, if there is no item: of JSON, at most 2,000 bytes, as in AWS.
    timeout
        Seconds of the invocation. Only the main thread can end a function that takes longer. Default: 30.

    Returns
    -------
    Result
        The row: `status` is ``SUCCEEDED`` with a `prediction`, or ``REJECTED`` or ``FAILED`` with a `reason`.

    Raises
    ------
    Exception
        Whatever the function raises, but `RejectItem`. In AWS the object becomes a dead letter.
    StageFailedError
        The function cannot be loaded, or takes too long.
    PropError
        An argument is out of range, the outputs are not the model's, or the stage does not fit the model.
    """
    check_above_zero(timeout=timeout)
    found = None if model is None else LocalModel.of(model)
    if found is not None:
        _check_outputs(outputs, found)
        stage = found.fitted(stage)
    if item is None:
        fields = StoredObject(b"", key=key, bucket=bucket).item.to_json()
        item = Item.from_json({**fields, "kept": _kept(kept or {})})
    return postprocess(
        load(stage, None if found is None else found.outputs),
        outputs,
        item,
        model_version=NO_MODEL if found is None else found.version,
        timeout=timeout,
    )


def postprocess(
    stage: Stage,
    outputs: Mapping[str, Array],
    item: Item,
    *,
    model_version: str,
    timeout: float,
    explanation: dict[str, Any] | None = None,
) -> Result:
    """Postprocess outputs with a stage that is loaded, and put their explanation on the row; see `run_postprocess`."""
    writer = _RowWriter(stage, item, model_version, timeout)
    try:
        arrays = arrays_of({name: Tensor.of(np.asarray(array)[None]) for name, array in outputs.items()})
    except ValueError as error:
        raise PropError(f"outputs must be arrays that a model gives, got {outputs!r:.100}: {error}") from None
    try:
        with kept_alarm(), stage.at_work():
            found, broken = call_within(timeout, lambda: writer.postprocessor.outcomes(arrays, [(0, 0)], [item]))
    except TookTooLongError as error:
        raise StageFailedError("TookTooLongError", f"postprocess {error}") from None
    if broken:
        raise broken[0]
    explained = with_explanations(found, {} if explanation is None else {0: explanation})
    return writer.write(explained[0], inference="cpu")


def reject(stage: Stage, reason: str, item: Item, *, model_version: str, timeout: float) -> Result:
    """Return the row of an object that preprocessing rejected."""
    writer = _RowWriter(stage, item, model_version, timeout)
    return writer.write({"status": "REJECTED", "reason": reason}, inference="none")


class _RowWriter:
    """The postprocessing of one invocation, whose table is this object."""

    def __init__(self, stage: Stage, item: Item, model_version: str, timeout: float) -> None:
        self._item = item
        self._model_version = model_version
        self._deadline = Deadline(Invocation(timeout))
        self._row: dict[str, Any] = {}
        with environment({"POWERTOOLS_LOG_LEVEL": "CRITICAL"}):  # an error is raised, so nobody needs it as JSON
            self.postprocessor = Postprocessor(
                sink=DynamoSink(cast("DynamoDBClient", self), "results"),
                ttl_days=None,
                function=stage.function,
                pipeline=_SERVICE,
            )

    def put_item(self, **request: Any) -> None:
        """Take a row, as a client of DynamoDB does."""
        self._row = request["Item"]

    def write(self, outcome: dict[str, Any], *, inference: str) -> Result:
        """Write the row, and return it as programs read it."""
        said: dict[str, Any] = {"model_version": self._model_version, "inference": inference}
        try:
            self.postprocessor.record(
                [self._item],
                {0: outcome},
                lambda _, common: row(self._item, **outcome, **common, **said),
                broken={},
                model_version=self._model_version,
                deadline=self._deadline,
            )
        except LittleTimeError as error:
            raise StageFailedError(type(error).__name__, str(error)) from None
        # Metrics are shared by all of a process. A handler would write them to the log.
        self.postprocessor.metrics.clear_metrics()
        self.postprocessor.metrics.clear_default_dimensions()
        return Result.from_row(self._row)


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return take_kept(dict(values), list(values))[1]
    except StageError as error:
        raise PropError(f"kept must be values that preprocess can keep, got {dict(values)!r:.100}: {error}") from None


def _check_outputs(outputs: Mapping[str, Array], model: LocalModel) -> None:
    expected = {spec.name: f"{spec.dtype} {list(spec.shape[1:])}" for spec in model.outputs}
    given = {name: f"{array.dtype.name} {list(array.shape)}" for name, array in outputs.items()}
    fits = given.keys() == expected.keys() and all(
        outputs[spec.name].dtype.name == spec.dtype
        and outputs[spec.name].ndim == len(spec.shape) - 1
        and all(isinstance(e, str) or a == e for a, e in zip(outputs[spec.name].shape, spec.shape[1:], strict=True))
        for spec in model.outputs
    )
    if not fits:
        raise PropError(f"outputs must be those of the model without the batch axis, {expected}, got {given}")
