"""Does, while building, what ONNX Runtime would do to the graph at each start of a function.

Only what is right on every CPU of either architecture, and the same whichever machine builds:

- its level "extended": fusions with standard operators and with its own, which all of its CPU builds have;
- not its level "layout", which blocks weights for the vector width of the CPU that it runs on. A function applies that
  level itself, at the start;
- no weights that its kernels packed: their layout is that of one kind of CPU, which it does not check, and version
  1.31.1 gave wrong answers with those of MiniLM, on the machine that had packed them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort

from cdk_inference.model.build.evaluate import check_export, start
from cdk_inference.model.build.graph import clean, serialize

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model.build.data import Batch
    from cdk_inference.model.build.metrics import Array
    from cdk_inference.model.recipe import ModelRecipe

FLOAT = ("float32", "float16")
"""Precisions that GPUs run too: their graphs keep to operators that every kind of processor has."""


def optimize(model: bytes, precision: str, recipe: ModelRecipe, batch: Batch, work: Path) -> bytes:
    """Return the model with operators fused for CPUs, or as it is if that is for others, or changes its outputs.

    Parameters
    ----------
    precision
        Kind of the precision that it is in.
    batch
        What both graphs are compared on.
    work
        A folder for a file that is removed again.
    """
    if precision in FLOAT:
        return model
    target = work / "optimized.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # it warns that the file may be for this machine alone; the level is chosen for that
    # As on x86, where signed activations are slow, also if an ARM machine builds, where they would be kept.
    options.add_session_config_entry("session.qdqisint8allowed", "0")
    try:
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimized = serialize(clean(onnx.load(target)))
        check_export(_run(model, recipe, batch), _run(optimized, recipe, batch), recipe)
    except Exception:  # its own, protobuf's, or ours: the function can do at its start what was not done here
        return model
    finally:
        target.unlink(missing_ok=True)
    return optimized


def _run(model: bytes, recipe: ModelRecipe, batch: Batch) -> list[Array]:
    names = [spec.name for spec in recipe.outputs]
    outputs: list[Array] = start(model, "the model", exact=False).run(names, batch)
    return outputs
