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

import numpy as np
import onnx
import onnxruntime as ort

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.evaluate import check_export, start
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.attention import fuse_attention
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.stored import MIN_STORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.metrics import Array
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.tensors import Declared

FLOAT = ("float32", "float16")
"""Precisions that GPUs run too: their graphs keep to operators that every kind of processor has."""


def optimize(
    model: Model, precision: str, recipe: Declared, batch: Batch, work: Path, *, attends: bool = False
) -> Model:
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
    attends
        Whether to fuse attention to a cache first, as `can_fuse_attention` allows.
    """
    if precision in FLOAT:
        return model
    try:
        own = _attending(aside.parsed(model), work) if attends else model
        optimized = _fused(own, work)
        (before,), (after,) = (_run(each, recipe, [batch]) for each in (own, optimized))
        check_export(before, after, recipe)
    except ModelBuildError as error:
        sys.stderr.write(f"the model ships without fused operators: {error}\n")
        return model
    return optimized


def can_fuse_attention(
    graph: onnx.ModelProto, recipe: Declared, calls: Sequence[Batch], work: Path, *, prompts: str | None = None
) -> bool:
    """Tell whether a float graph computes the same after its attention to a cache is fused; False if it has none.

    Graphs in 8 or 4 bits cannot tell: a last bit of a float may become a step of such a number, layer by layer.

    Parameters
    ----------
    calls
        The inputs that a driver gives the graph. Each call is made for two items, as kernels may know no batches.
    work
        A folder for files.
    prompts
        The input with the tokens of prompts, if it reads any. One of the calls must have several of them then: which
        tokens see each other shows in no other.
    """
    if prompts is not None and all(call[prompts].shape[1] == 1 for call in calls):
        sys.stderr.write("the model ships without fused attention: its sample must have a prompt of several tokens\n")
        return False
    fused = onnx.ModelProto()
    fused.CopyFrom(graph)
    twice = [{name: np.repeat(array, 2, axis=0) for name, array in call.items()} for call in calls]
    try:
        if not fuse_attention(fused):
            return False
        # Files of weights may be links, so no folder is written to twice.
        kept = _kept(graph, work / "apart"), _kept(fused, work / "together")
        before, after = (_run(each, recipe, twice) for each in kept)
        for original, ours in zip(before, after, strict=True):
            check_export(original, ours, recipe)
    except ModelBuildError as error:
        sys.stderr.write(f"the model ships without fused attention: {error}\n")
        return False
    return True


def _attending(graph: onnx.ModelProto, work: Path) -> Model:
    """Return a graph with its attention fused."""
    fuse_attention(graph)
    return _kept(graph, work / "attention")


def _kept(graph: onnx.ModelProto, folder: Path) -> Model:
    """Return a graph as it is opened: by its bytes, or by its path if it is large."""
    return aside.save(graph, folder) if aside.is_aside(graph) else serialize(graph)


def _fused(model: Model, work: Path) -> Model:
    """Return the model with operators fused, and with weights that are not larger."""
    # Folding also unfolds weights that are stored in 8 bits until the start: see `stored`.
    for disabled in ([], ["ConstantFolding"]):
        optimized = _optimized(model, work / "optimized.onnx", disabled)
        if _weight_bytes(optimized) <= _weight_bytes(aside.parsed(model)) + MIN_STORED:
            return _kept(optimized, work / "fused")
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


def _run(model: Model, recipe: Declared, batches: Sequence[Batch]) -> list[list[Array]]:
    names = [spec.name for spec in recipe.outputs]
    session = start(model, "the model", exact=False)
    try:
        return [session.run(names, batch) for batch in batches]
    except Exception as error:  # as above
        raise ModelBuildError(f"onnxruntime cannot run the graph: {error}") from error
