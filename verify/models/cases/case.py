"""A case of `verify.models`: its description, and how its answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cdk_inference.model import Graphs, TensorSpec, YoloHead

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]
"""Computes the outputs, by name, from the inputs of one batch."""


@dataclass(frozen=True)
class Case:
    """A public model, and what its users see.

    Parameters
    ----------
    kind
        The kind of model.
    package, file
        Where it is; a case without a file makes its model, or its factory brings the weights.
    license
        The licence of the weights, as the package says.
    inputs, outputs
        As in a recipe.
    seen
        The thing that is compared.
    bound
        Smallest agreement with float32, from 0 to 1.
    metric, max_drop, head
        The gate of the build.
    factory
        The function of the case that returns the PyTorch network, whose weights `file` has. An ONNX file needs none.
    refused
        Expected reason, as a regular expression, if the build must refuse the model.
    source
        The graph and its driver, if the file is run several times for an answer; it is ``model.onnx`` next to the case.
        A case of several graphs writes their files by its function `write`.
    sample_rate
        That of the evaluation, for sound.
    vocabulary
        That of the evaluation, for texts.
    """

    kind: str
    package: str
    file: str
    license: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    seen: str
    bound: float
    metric: str = "cosine"
    max_drop: float = 0.02
    head: YoloHead | None = None
    factory: str = ""
    refused: str = ""
    source: Graphs | None = None
    sample_rate: int | None = None
    vocabulary: str | None = None


def batches(samples: Sequence[dict[str, Array]], size: int = 4) -> Iterable[dict[str, Array]]:
    """Yield samples of equal shapes in batches."""
    for start in range(0, len(samples), size):
        group = samples[start : start + size]
        yield {name: np.stack([sample[name] for sample in group]) for name in group[0]}


def batch_first(model: onnx.ModelProto, axes: dict[str, Sequence[int]]) -> onnx.ModelProto:
    """Transpose inputs and outputs that have their batch on another axis: recipes demand it first.

    Parameters
    ----------
    axes
        By name, the order of the axes that leads from what a user passes or gets to what the graph has, and back.
    """
    graph = model.graph
    before, after = [], []
    for name, order in axes.items():
        inner = f"{name}_inner"
        given = name in {value.name for value in graph.input}
        for node in _nodes(graph):
            names = node.input if given else node.output
            names[:] = [inner if each == name else each for each in names]
        ends = [inner, name] if not given else [name, inner]
        (before if given else after).append(onnx.helper.make_node("Transpose", ends[:1], ends[1:], perm=list(order)))
        for value in (*graph.input, *graph.output):
            if value.name == name:
                dims = list(value.type.tensor_type.shape.dim)
                del value.type.tensor_type.shape.dim[:]
                if dims:  # it has sizes
                    value.type.tensor_type.shape.dim.extend(dims[axis] for axis in order)
    nodes = [*before, *graph.node, *after]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return model


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes, each (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def f1(expected: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]], match: Callable[[Any, Any], bool]) -> float:
    """Return the F1 score of what was found in all samples; each thing matches at most one other."""
    hits = total = 0
    for wanted, given in zip(expected, found, strict=True):
        total += len(wanted) + len(given)
        left = list(given)
        for thing in wanted:
            twin = next((each for each in left if match(thing, each)), None)
            if twin is not None:
                left.remove(twin)
                hits += 1
    return 2 * hits / total if total else 1.0


def collapse(classes: Sequence[int], labels: Sequence[str], blank: int) -> str:
    """Return the text of a CTC output: repeated classes count once, blanks not at all."""
    kept = [c for i, c in enumerate(classes) if c != blank and (i == 0 or c != classes[i - 1])]
    return "".join(labels[c] for c in kept)
