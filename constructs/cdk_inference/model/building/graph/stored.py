"""Weights that are stored in 8 bits and unfolded when the model is loaded, for operators without an 8-bit kernel.

The file is a quarter of the size, and the speed that of float: onnxruntime folds the unfolding as it opens the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import add_weight, array, weights
from cdk_inference.model.building.graph.saturation import largest_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cdk_inference.model.building.graph.graph import Array

# Operator → positions of the weights among its inputs, and the number of leading axes with separate scales.
STORED = {
    "Conv": ((1,), 1),
    "ConvTranspose": ((1,), 1),
    "GRU": ((1, 2), 2),
    "LSTM": ((1, 2), 2),
    "RNN": ((1, 2), 2),
}
MIN_STORED = 4096
"""Weights of fewer values stay as they are: what goes with them takes more space than they do."""

_PART = 1 << 24  # bytes of a weight that are quantized at once


def quantize_rows(values: Array, axes: int, *, saturates: bool = False) -> tuple[Array, Array]:
    """Return int8 values and the scales that give them back, one per index of the leading axes.

    Parameters
    ----------
    saturates
        Whether the rows are those of products on CPUs that add in 16 bits; see `saturation`.
    """
    inner = tuple(range(axes, values.ndim))
    rows = np.empty(values.shape, np.int8)
    scales = np.empty(values.shape[:axes] + (1,) * len(inner), np.float32)
    for part in _parts(values):
        floats = values[part].astype(np.float32)
        largest = np.max(np.abs(floats), axis=inner, keepdims=True)
        if saturates:
            largest = np.maximum(largest, largest_pairs(floats, aligned=True)[:, None])
        scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        rows[part], scales[part] = np.clip(np.rint(floats / scale), -127, 127).astype(np.int8), scale
    return rows, scales


def is_finite(values: Array) -> bool:
    """Tell whether no value is infinite or none at all."""
    return all(np.isfinite(values[part]).all() for part in _parts(values))


def _parts(values: Array) -> Iterator[slice]:
    """Yield slices of the first axis: the tables of language models are so large that copies of them count."""
    step = max(1, _PART // max(1, values.nbytes // max(1, len(values))))
    for first in range(0, len(values), step):
        yield slice(first, first + step)


def store(graph: onnx.GraphProto, nodes: Iterable[str]) -> int:
    """Store the weights of the nodes in 8 bits, in place, and return how many."""
    chosen = set(nodes)
    wanted: dict[str, int] = {}
    for node in graph.node:
        if node.name in chosen and node.op_type in STORED:
            positions, axes = STORED[node.op_type]
            wanted |= {node.input[p]: axes for p in positions}
    known = weights(graph)
    unfolding: list[onnx.NodeProto] = []
    outputs = {v.name for v in graph.output}
    for name, axes in wanted.items():
        weight = known.get(name)
        if weight is None or weight.data_type != TensorProto.FLOAT or name in outputs:
            continue
        values = array(weight)
        if values.size < MIN_STORED or not is_finite(values):
            continue
        stored, scale = quantize_rows(values, axes)
        graph.initializer.remove(weight)
        small, scales = add_weight(graph, f"{name}_int8", stored), add_weight(graph, f"{name}_scale", scale)
        unfolding += [
            onnx.helper.make_node("Cast", [small], [f"{name}_cast"], name=f"{name}_cast", to=TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"{name}_cast", scales], [name], name=f"{name}_unfold"),
        ]
    nodes_after = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend([*unfolding, *nodes_after])
    return len(unfolding) // 2
