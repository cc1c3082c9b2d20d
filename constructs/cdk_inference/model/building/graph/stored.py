"""Weights that are stored in 8 bits and unfolded when the model is loaded, for operators without an 8-bit kernel.

The file is a quarter of the size, and the speed that of float: onnxruntime folds the unfolding as it opens the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import add_weight, array, weights

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def quantize_rows(values: Array, axes: int) -> tuple[Array, Array]:
    """Return int8 values and the scales that give them back, one per index of the leading axes."""
    inner = tuple(range(axes, values.ndim))
    floats = values.astype(np.float32)
    largest = np.max(np.abs(floats), axis=inner, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(floats / scale), -127, 127).astype(np.int8), scale


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
        if values.size < MIN_STORED or not np.isfinite(values).all():
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
