"""Handler of the CPU inference function: runs batches through the model with ONNX Runtime.

Logs with the standard library: the cold start has ONNX Runtime and the model to load already, and Powertools would add
50 to 90 ms.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from inference_runtime.aws import client
from inference_runtime.confidence import confidences
from inference_runtime.errors import StageError
from inference_runtime.logs import add_to_log_lines
from inference_runtime.stage import required
from inference_runtime.tensors import TensorStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inference_runtime.tensors import Array

MAX_BATCH = int(os.environ.get("MAX_BATCH", "16"))
"""Most items in one run of the model: more gains little on a CPU, and activations take memory."""

RESPONSE_LIMIT = 80_000
"""Most bytes of the response as JSON: with the preprocessing's 180,000 it stays within a state's 262,144."""

MB_PER_VCPU = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html

_NUMPY_TYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names are not numpy's


def _open_session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    memory = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", str(MB_PER_VCPU)))
    options.intra_op_num_threads = max(1, min(round(memory / MB_PER_VCPU), os.cpu_count() or 1))
    path = Path(required("LAMBDA_TASK_ROOT"), "model", "model.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_version = required("MODEL_VERSION")
add_to_log_lines(model_version=_version)
_session = _open_session()
_input_types = {i.name: i.type.removeprefix("tensor(").removesuffix(")") for i in _session.get_inputs()}
_input_dtypes = {name: _NUMPY_TYPES.get(kind, kind) for name, kind in _input_types.items()}
_output_names = [output.name for output in _session.get_outputs()]
# A model exported for a fixed batch gets exactly that many items, the last run filled up by repetition.
_fixed_batch = next((i.shape[0] for i in _session.get_inputs() if i.shape and isinstance(i.shape[0], int)), None)
_with_confidence = os.environ.get("CONFIDENCE") == "1"
_store = TensorStore(client("s3"), required("WORK_BUCKET"))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Run the model.

    Parameters
    ----------
    event
        `{"groups": [{"indices", "inputs": {name: tensor}}]}`, and `only`, the indices to run, if not all.
    context
        Unused.

    Returns
    -------
    dict
        `groups`, `[{"indices", "outputs": {name: tensor}}]`, `model_version`, and `inference`, where it ran; with
        `CONFIDENCE=1` also `confidences`, `[{"index", "confidence"}]`.
    """
    groups = [(indices, infer(inputs)) for indices, inputs in _selected(event["groups"], event.get("only"))]
    response: dict[str, Any] = {"model_version": _version, "inference": "cpu"}
    if _with_confidence:
        response["confidences"] = [
            {"index": index, "confidence": confidence}
            for indices, outputs in groups
            for index, confidence in zip(indices, confidences(outputs[_output_names[0]]), strict=True)
        ]
    return _store.dump_groups(response, groups, "outputs", RESPONSE_LIMIT)


def _selected(groups: list[dict[str, Any]], only: list[int] | None) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """Load the groups' tensors, of the selected items alone; what is not needed is not read."""
    wanted = None if only is None else set(only)
    for group in groups:
        indices = group["indices"]
        rows = [row for row, index in enumerate(indices) if wanted is None or index in wanted]
        if rows:
            inputs = {name: _store.load(tensor) for name, tensor in group["inputs"].items()}
            if len(rows) < len(indices):
                inputs = {name: array[rows] for name, array in inputs.items()}
            yield [indices[row] for row in rows], inputs


def infer(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the model's outputs by name, with as many items as the inputs have.

    Raises
    ------
    StageError
        If the inputs are not the model's, or an output has no batch axis.
    """
    dtypes = {name: array.dtype.name for name, array in inputs.items()}
    if dtypes != _input_dtypes:
        raise StageError(f"inputs are {dtypes}, the model expects {_input_dtypes}")
    total = len(next(iter(inputs.values())))
    step = _fixed_batch or MAX_BATCH
    runs = []
    for start in range(0, total, step):
        chunk = {name: array[start : start + step] for name, array in inputs.items()}
        count = min(step, total - start)
        if _fixed_batch and count < step:
            chunk = {name: np.concatenate([a, np.repeat(a[-1:], step - count, axis=0)]) for name, a in chunk.items()}
            runs.append([output[:count] for output in _run(chunk, step)])
        else:
            runs.append(_run(chunk, count))
    return {name: np.concatenate(parts) for name, parts in zip(_output_names, zip(*runs, strict=True), strict=True)}


def _run(chunk: Mapping[str, Array], count: int) -> list[Array]:
    outputs: list[Array] = _session.run(_output_names, dict(chunk))
    for name, output in zip(_output_names, outputs, strict=True):
        if np.ndim(output) == 0 or len(output) != count:
            raise StageError(f"model output {name!r} has shape {np.shape(output)}, expected a batch of {count} first")
    return outputs
