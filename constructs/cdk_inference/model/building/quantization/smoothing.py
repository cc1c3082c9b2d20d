"""Takes the outlying channels out of what layer norms give, before it is quantized with one scale for all channels.

The idea of SmoothQuant (Xiao et al., 2023), without calibration: the layer norm's own weights say how far each channel
reaches. The divisor of a channel here multiplies its row of the matrix there, so the float result stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cdk_inference.model.building.graph.graph import add_weight, array, consumers, producers, replace_nodes, weights
from cdk_inference.model.building.quantization.selection import is_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    Factors = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

REACH = 3.0
"""Standard deviations of a normalised channel that count."""

SHARE = 0.7
"""How much of the difference between channels moves from the activations (1) to the weights (0 leaves it there)."""

_SMALLEST = 1e-5


def smooth(graph: onnx.GraphProto, nodes: Iterable[str]) -> int:
    """Smooth the input of those products among the nodes that alone take what a layer norm gives; return how many.

    Works in place. Attention's three projections of the same input hardly gain, so they are left alone.
    """
    chosen, made, taken, known = set(nodes), producers(graph), consumers(graph), weights(graph)
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for product in graph.node:
        if product.name not in chosen or product.op_type != "MatMul":
            continue
        norm, matrix = made.get(product.input[0]), known.get(product.input[1])
        if norm is None or norm.op_type != "LayerNormalization" or matrix is None or not is_matrix(matrix):
            continue
        if sum(n.op_type == "MatMul" for n in taken[norm.output[0]]) > 1 or len(taken[matrix.name]) > 1:
            continue
        reach = _reach(norm, known)
        if reach is None or len(reach) != matrix.dims[0]:
            continue
        values = array(matrix).astype(np.float32)
        factors = _factors(reach, np.max(np.abs(values), axis=1))
        if not np.isfinite(factors).all():
            continue
        matrix.CopyFrom(numpy_helper.from_array((values * factors[:, None]).astype(np.float32), matrix.name))
        inverse = add_weight(graph, f"{product.name}_smooth", (1 / factors).astype(np.float32))
        x = product.input[0]
        product.input[0] = f"{product.output[0]}_smooth"
        division = onnx.helper.make_node("Mul", [x, inverse], [product.input[0]], name=f"{product.name}_smooth")
        replaced[product.name] = (division, product)
    if replaced:
        replace_nodes(graph, replaced)
    return len(replaced)


def _reach(norm: onnx.NodeProto, known: dict[str, TensorProto]) -> Factors | None:
    """Return how far each channel of a layer norm over the last axis reaches, by its weights."""
    parameters = [known.get(n) for n in norm.input[1:3]]
    if any(p is None or len(p.dims) != 1 or p.data_type != TensorProto.FLOAT for p in parameters) or not parameters:
        return None
    axis = next((a.i for a in norm.attribute if a.name == "axis"), -1)
    if axis != -1 and axis < 0:
        return None
    magnitudes = [np.abs(array(p)).astype(np.float32) for p in parameters if p is not None]
    reach: Factors = magnitudes[0] * np.float32(REACH)
    return reach + magnitudes[1] if len(magnitudes) > 1 else reach


def _factors(reach: Factors, largest: Factors) -> Factors:
    """Return what each channel is divided by: powers of two, which round nothing, around 1."""
    logs = SHARE * np.log2(np.maximum(reach.astype(np.float64), _SMALLEST))
    logs -= (1 - SHARE) * np.log2(np.maximum(largest.astype(np.float64), _SMALLEST))
    factors: Factors = np.exp2(np.rint(logs - logs.mean())).astype(np.float32)
    return factors
