"""Handler of the inference function: runs batches through the model with ONNX Runtime, on a CPU or a GPU.

Its cold start is the one that counts, so that it imports what it uses when it uses it. It never imports numpy, which
takes longer than to load most models. It imports no client of S3 before a tensor comes or goes by reference.
"""

from __future__ import annotations

import os
import time
from functools import partial
from math import inf

from inference_runtime.engine.confidence import confidences
from inference_runtime.environment import required
from inference_runtime.errors import StageError
from inference_runtime.handlers.open_engine import open_engine
from inference_runtime.lifecycle import answers_warming, prepare
from inference_runtime.logs import add_to_log_lines
from inference_runtime.tensors.store import TensorStore, room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from inference_runtime.engine.interfaces import Engine, ObjectStore
    from inference_runtime.explanations.explainer import Explainer
    from inference_runtime.tensors.tensor import Tensor

RESPONSE_LIMIT = 80_000
"""Most bytes of the response as JSON: with the preprocessing's 180,000 it stays within a state's 262,144."""

_SHARE = 0.95
"""Share of an invocation's time that the model has: the answer needs the rest."""

EXPLAINING = 0.5
"""Share of the time that is left which explanations may take: the response needs some."""

EXPLANATIONS_BYTES = 0.5
"""Share of the response's bytes that are left which explanations may take: tensors travel faster inline."""

_version = required("MODEL_VERSION")
add_to_log_lines(model_version=_version)
engine: Engine = open_engine()
_with_confidence = os.environ.get("CONFIDENCE") == "1"


def _infer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run the model by the engine of now: a server for several threads replaces it."""
    return engine.infer(inputs)


def _open_explainer() -> Explainer | None:
    if "EXPLANATION_SETTINGS" not in os.environ:
        return None
    from inference_runtime.explanations.explainer import Explainer  # noqa: PLC0415 - few pipelines explain answers

    return Explainer.from_environment(_infer)


_explainer = _open_explainer()


def _objects() -> ObjectStore:
    from inference_runtime.s3.client import s3_client  # noqa: PLC0415 - most tensors come and go inline

    return s3_client()


def _objects_at_once() -> ObjectStore:
    from inference_runtime.s3.client import s3_client  # noqa: PLC0415 - few functions draw

    return s3_client(attempts=1)


_store = TensorStore(_objects, required("WORK_BUCKET"))
_pictures = TensorStore(_objects_at_once, required("WORK_BUCKET"))
prepare(engine.warm_up)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Run the model.

    Parameters
    ----------
    event
        `{"groups": [{"indices", "inputs": {name: tensor}}]}`, and `only`, the indices to run, if not all. A group may
        have `explain`, the only indices whose answers may be explained.
    context
        Lambda's: a model of several steps begins none when the time is nearly over, and answers are explained only
        while there is time.

    Returns
    -------
    dict
        `groups`, `[{"indices", "outputs": {name: tensor}}]`, `model_version`, and `inference`, where it ran; with
        `CONFIDENCE=1` also `confidences`, `[{"index", "confidence"}]`, and with an explainer `explanations`,
        `[{"indices", "explanation"}]`.
    """
    engine.start_deadline(_seconds_left(context))
    explanations = None if _explainer is None else _explainer.begin()
    groups = []
    for indices, inputs, asked in _selected(event["groups"], event.get("only")):
        began = time.monotonic()
        outputs = engine.infer(inputs)
        groups.append((indices, outputs))
        if explanations is not None:
            explanations.add(indices, inputs, outputs, asked, seconds=time.monotonic() - began)
    response: dict[str, Any] = {"model_version": _version, "inference": engine.inference}
    if _with_confidence:
        response["confidences"] = [
            {"index": index, "confidence": confidence}
            for indices, outputs in groups
            for index, confidence in zip(indices, confidences(outputs[engine.output_names[0]]), strict=True)
        ]
    if explanations is not None:
        from inference_runtime.explanations.room import grouped  # noqa: PLC0415 - as the explainer

        response["explanations"] = []
        most_bytes = room(response, groups, "outputs", RESPONSE_LIMIT) * EXPLANATIONS_BYTES
        made = explanations.made(_seconds_left(context) * EXPLAINING, partial(_kept, context), most_bytes)
        response["explanations"] = grouped(made)
    return _store.dump_groups(response, groups, "outputs", RESPONSE_LIMIT)


def _seconds_left(context: Any) -> float:  # noqa: ANN401 - Lambda's object
    """Return the seconds until the model must have answered; infinite if there is no limit."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return inf if remaining is None else remaining() / 1000 * _SHARE


def _kept(context: object, data: bytes) -> dict[str, str] | None:
    """Keep a picture in the work bucket, if there is time even for an S3 that hangs."""
    from inference_runtime.timeouts import CONNECT_TIMEOUT, READ_TIMEOUT  # noqa: PLC0415 - few functions need it

    return _pictures.put(data) if _seconds_left(context) > CONNECT_TIMEOUT + READ_TIMEOUT else None


def _selected(
    groups: list[dict[str, Any]], only: list[int] | None
) -> Iterator[tuple[list[int], dict[str, Tensor], list[int] | None]]:
    """Load the groups' tensors, of the selected items alone; what is not needed is not read."""
    wanted = None if only is None else set(only)
    for group in groups:
        indices = group["indices"]
        rows = [row for row, index in enumerate(indices) if wanted is None or index in wanted]
        if rows:
            inputs = {name: _store.load(tensor) for name, tensor in group["inputs"].items()}
            for name, tensor in inputs.items():
                if tensor.shape[:1] != (len(indices),):
                    raise StageError(f"input {name!r} is a {tensor}, and the group has {len(indices)} indices")
            if len(rows) < len(indices):
                inputs = {name: tensor.take(rows) for name, tensor in inputs.items()}
            yield [indices[row] for row in rows], inputs, group.get("explain")
