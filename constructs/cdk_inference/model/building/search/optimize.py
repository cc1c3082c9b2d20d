"""Does, while building, what ONNX Runtime would do to the graph at each start of a function.

Each change must be right on every CPU of either architecture, and the same whichever machine builds:

- It applies the level "extended": fusions with standard operators and with ONNX Runtime's own. All CPU builds have
  these.
- It leaves out the level "layout", which blocks weights for the vector width of the CPU. A function applies that level
  itself, at the start.
- It keeps no weights that kernels have packed. Their layout is that of one kind of CPU, which nothing checks. Version
  1.31.1 gave wrong answers with those of MiniLM, on the machine that had packed them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.evaluate import check_export, start
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.stored import MIN_STORED

if TYPE_CHECKING:
    import onnx

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.metrics import Array
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.tensors import Declared

FLOAT = ("float32", "float16")
"""Precisions that GPUs run too: their graphs keep to operators that every kind of processor has."""


def optimize(model: Model, precision: str, recipe: Declared, batch: Batch, work: Path) -> Model:
    """Return the model with operators fused for CPUs, or as it is if that is for others.

    It also stays as it is if fusing would change its outputs, or make its weights larger. The reason is written to
    stderr, the build's log: a function does at its start what was not done here.

    Parameters
    ----------
    precision
        Kind of the precision that it is in.
    batch
        The batch that both graphs are compared on.
    work
        A folder for files. It must exist as long as the result, if that is large.
    """
    if precision in FLOAT:
        return model
    try:
        optimized = _fused(model, work)
        check_export(_run(model, recipe, batch), _run(optimized, recipe, batch), recipe)
    except ModelBuildError as error:
        sys.stderr.write(f"the model ships without fused operators: {error}\n")
        return model
    return optimized


def _fused(model: Model, work: Path) -> Model:
    """Return the model with operators fused, and with weights that are not larger."""
    # Folding also unfolds weights that are stored in 8 bits until the start: see `stored`.
    for disabled in ([], ["ConstantFolding"]):
        optimized = _optimized(model, work / "optimized.onnx", disabled)
        if _weight_bytes(optimized) <= _weight_bytes(aside.parsed(model)) + MIN_STORED:
            return aside.save(optimized, work / "fused") if aside.is_aside(optimized) else serialize(optimized)
    raise ModelBuildError("fused operators must not make its weights larger")


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(map(aside.size, model.graph.initializer))


def _optimized(model: Model, target: Path, disabled: list[str]) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # it warns that the file may be for this machine alone; the level is chosen for that
    # As on x86, where signed activations are slow, also if an ARM machine builds, where they would be kept.
    options.add_session_config_entry("session.qdqisint8allowed", "0")
    if isinstance(model, Path):
        aside.keep_aside(options, target.with_suffix(".weights").name)
    try:
        return clean(_saved(model, options, target, disabled))
    finally:
        target.unlink(missing_ok=True)


def _saved(model: Model, options: ort.SessionOptions, target: Path, disabled: list[str]) -> onnx.ModelProto:
    """Return the graph that onnxruntime saves to a path that its options have."""
    try:
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled or None)
        return aside.load(target)
    except Exception as error:  # onnxruntime's have no base class, and protobuf's neither
        raise ModelBuildError(f"onnxruntime cannot save the graph: {error}") from error


def _run(model: Model, recipe: Declared, batch: Batch) -> list[Array]:
    names = [spec.name for spec in recipe.outputs]
    session = start(model, "the model", exact=False)
    try:
        outputs: list[Array] = session.run(names, batch)
    except Exception as error:  # as above
        raise ModelBuildError(f"onnxruntime cannot run the graph: {error}") from error
    return outputs
