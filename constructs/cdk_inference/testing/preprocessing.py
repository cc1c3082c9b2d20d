"""Runs a preprocessing function on one object, as the function in AWS does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cdk_inference.common.props.validation import check_above_zero, check_at_least
from cdk_inference.errors import PropError
from cdk_inference.testing.errors import StageFailedError
from cdk_inference.testing.model import LocalModel
from cdk_inference.testing.objects import DEFAULT_TIMEOUT, Invocation, StoredObject
from cdk_inference.testing.stage import UNNAMED, load
from cdk_inference.testing.timer import kept_alarm
from inference_runtime.errors import StageError
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.inputs import InputSpec, group_by_shape, type_of
from inference_runtime.stages.preprocessor import Batch, Preprocessor
from inference_runtime.stages.s3_source import S3Source
from inference_runtime.tensors.tensor import DTYPES, STRING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.testing.model import ModelSource
    from cdk_inference.testing.stage import Stage
    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

DEFAULT_MAX_OBJECT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Preprocessed:
    """The outcome of preprocessing one object.

    Attributes
    ----------
    item
        The object, with the values that were kept.
    inputs
        The model's inputs by name, without the batch axis; empty if the object is rejected. Without a model, a single
        array that has no name is called ``input``.
    reason
        Why the object is rejected; None if it is not.
    seconds
        The time that the function took.
    """

    item: Item
    inputs: dict[str, Array]
    reason: str | None
    seconds: float

    @property
    def kept(self) -> dict[str, Any]:
        """The values that were kept, as postprocessing and the row get them."""
        return self.item.kept


def run_preprocess(
    stage: Preprocess | Callable[[bytes, Item], object] | str | Path,
    data: bytes | Path,
    *,
    model: ModelSource | None = None,
    key: str | None = None,
    bucket: str = "inbox",
    keep: Sequence[str] = (),
    max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
    timeout: float = DEFAULT_TIMEOUT,
) -> Preprocessed:
    """Preprocess one object by the code that runs in AWS: with its checks, its messages and its time limit.

    Parameters
    ----------
    stage
        ``path/to/file.py:function``, the function itself, or a `Preprocess` as your app has it.
    data
        The object's bytes, or the path of a file.
    model
        The model whose inputs the arrays must fit, as `LocalModel.of` takes it, such as the path of a recipe. Default:
        any array fits that can travel and has neither NaN nor infinity.
    key
        The object's key. Default: the name of the file, or ``object``.
    bucket
        The name of its bucket.
    keep
        Names of values that the function returns besides the inputs. A `Preprocess` has its own.
    max_object_bytes
        Larger objects are rejected. Default: 64 MiB.
    timeout
        Seconds of the invocation, most of which the object gets. Only the main thread can end a function that takes
        longer. Default: 30.

    Returns
    -------
    Preprocessed
        The inputs, or the reason for which the object is rejected.

    Raises
    ------
    Exception
        Whatever the function raises, but `RejectItem`. In AWS the object becomes a dead letter.
    StageFailedError
        The function cannot be loaded, takes too long, or returns what the model cannot take.
    PropError
        An argument is out of range, or the stage does not fit the model.
    """
    found = None if model is None else LocalModel.of(model)
    loaded = load(stage, None if found is None else found.inputs)
    return preprocess(
        loaded,
        StoredObject(data, key=key, bucket=bucket),
        model=found,
        keep=kept_names(loaded, keep),
        max_object_bytes=max_object_bytes,
        timeout=timeout,
    )


def kept_names(stage: Stage, keep: Sequence[str]) -> Sequence[str]:
    """Return the names of the values to keep: those that are given, or the stage's.

    Raises
    ------
    PropError
        Both are there.
    """
    if keep and stage.keep:
        raise PropError(f"keep must be left out with a Preprocess, which has its own, got {list(keep)!r}")
    return keep or stage.keep


def preprocess(
    stage: Stage,
    stored: StoredObject,
    *,
    model: LocalModel | None,
    keep: Sequence[str],
    max_object_bytes: int,
    timeout: float,
) -> Preprocessed:
    """Preprocess an object with a stage that is loaded; see `run_preprocess`."""
    check_at_least(0, max_object_bytes=max_object_bytes)
    check_above_zero(timeout=timeout)
    recorded = _Recorded(stage.function, keep, None if model is None else model.input_specs())
    preprocessor = Preprocessor(
        source=S3Source(cast("S3Client", stored)),
        function=recorded,
        inputs=recorded.specs,
        max_bytes=max_object_bytes,
        prefix="STAGE",
        keep=keep,
    )
    batch = Batch()
    with kept_alarm(), stage.at_work():
        scored = list(preprocessor.inputs([stored.message], batch, deadline=Deadline(Invocation(timeout))))
    if recorded.raised is not None and batch.failed:
        raise recorded.raised
    if batch.failed:
        raise StageFailedError(batch.failed[0]["error"], batch.failed[0]["cause"])
    group_by_shape(scored)  # the arrays must be able to travel
    return Preprocessed(
        item=batch.items[0],
        inputs=scored[0][1] if scored else {},
        reason=batch.rejected[0]["reason"] if batch.rejected else None,
        seconds=recorded.seconds,
    )


@dataclass
class _Recorded:
    """A preprocessing function, with what is to be known of its call.

    Attributes
    ----------
    function
        The user's.
    keep
        Names of values that it returns besides the inputs.
    known
        The model's inputs; None if there is no model.
    specs
        The same, or those of the arrays that were returned, so that the runtime checks all but what a model would say.
    raised
        The exception of the function.
    seconds
        The time that it took.
    """

    function: Callable[..., object]
    keep: Sequence[str]
    known: list[InputSpec] | None
    specs: list[InputSpec] = field(default_factory=list)
    raised: Exception | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.specs.extend(self.known or ())

    def __call__(self, data: bytes, item: Item) -> object:
        begin = time.perf_counter()
        try:
            returned = self.function(data, item)
        except Exception as error:
            self.raised = error
            raise
        finally:
            self.seconds = time.perf_counter() - begin
        if self.known is None:
            self.specs[:] = _specs_of(returned, self.keep)
        return returned


def _specs_of(returned: object, keep: Sequence[str]) -> list[InputSpec]:
    """Return what a model would take that fits these arrays.

    Raises
    ------
    StageError
        No model takes one of them.
    """
    named = returned if isinstance(returned, dict) else {UNNAMED: returned}
    arrays = {name: np.asarray(value) for name, value in named.items() if name not in keep}
    for name, array in arrays.items():
        if type_of(array) not in {*DTYPES, STRING}:
            raise StageError(
                f"input {name!r} is {array.dtype.name} {list(array.shape)}, expected {STRING} or one of the types "
                f"{', '.join(sorted(DTYPES))}"
            )
    return [InputSpec(name, type_of(array), array.shape) for name, array in arrays.items()]
