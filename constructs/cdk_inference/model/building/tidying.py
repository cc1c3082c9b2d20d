"""Cleans an exported graph, and compares it with the original."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cdk_inference.model.building.evaluation.evaluate import check_export, predict
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import clean, fuse, rounds, serialize

if TYPE_CHECKING:
    import onnx

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
        A folder for temporary files, and for those of a graph that is large.
    """
    with TemporaryDirectory(dir=work) as scratch:
        graph = clean(fuse(aside.load(file), Path(scratch)))
        model = aside.save(graph, work) if aside.is_aside(graph) else serialize(graph)
    if isinstance(model, Path):
        graph = aside.load(model)
    quantized = rounds(graph)
    # Models in 8 bits are compared as they are written: fused kernels may round some values the other way.
    outputs = predict(model, declared, batches, "the exported graph", fused=not quantized)
    parities = [
        check_export(theirs, ours, declared, quantized=quantized)
        for theirs, ours in zip(expected, outputs, strict=True)
    ]
    return graph, min(parities)
