"""Cleans an exported graph, and compares it with the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from cdk_inference.model.building.evaluation.evaluate import check_export, predict
from cdk_inference.model.building.graph.graph import clean, fuse, rounds, serialize

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.metrics import Array
    from cdk_inference.model.recipe.tensors import Declared


def tidied(
    file: Path, declared: Declared, batches: list[Batch], expected: list[list[Array]], work: Path
) -> tuple[onnx.ModelProto, float]:
    """Return an exported graph, cleaned, and the cosine similarity of its outputs to the original's.

    Parameters
    ----------
    file
        The exported graph.
    declared
        Its inputs and outputs.
    batches, expected
        Inputs, and the outputs of the original for each of them.
    work
        A folder for temporary files.
    """
    graph = clean(fuse(onnx.load(file), work))
    quantized = rounds(graph)
    # Models in 8 bits are compared as they are written: fused kernels may round some values the other way.
    outputs = predict(serialize(graph), declared, batches, "the exported graph", fused=not quantized)
    parities = [
        check_export(theirs, ours, declared, quantized=quantized)
        for theirs, ours in zip(expected, outputs, strict=True)
    ]
    return graph, min(parities)
