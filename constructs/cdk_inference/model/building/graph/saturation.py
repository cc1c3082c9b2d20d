"""8-bit products that give the same sums on every CPU.

x86_64 CPUs without VNNI multiply unsigned activations by signed weights in pairs. They add each pair in 16 bits
(``vpmaddubsw``; Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). A sum beyond 32,767 saturates.
Activations are at most 255, and 255 * 128 is 32,640. So data cannot saturate a sum if two weights of one sign that are
added first make at most 128. Arm's dot products, VNNI and AMX add in 32 bits.

Nothing saturates in products of unsigned weights, nor in depthwise convolutions, which ONNX Runtime adds in 32 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import add_weight, all_nodes, array, producers, weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.model.building.graph.graph import Array

    Numbers = np.ndarray[tuple[int, ...], np.dtype[Any]]

PAIR_LIMIT = 128
"""Largest sum of the magnitudes of two int8 weights of one sign whose products are added in 16 bits."""

_SHIFT = 128  # from int8 to uint8
_MATRIX = 2  # axes


class _Weight(NamedTuple):
    """Where an operator has weights: position among its inputs, that of their zero point, and their layout."""

    position: int
    zero_point: int
    layout: str


_QUANTIZED = {
    "ConvInteger": (_Weight(1, 3, "planes"),),
    "DynamicQuantizeLSTM": (_Weight(1, 9, "matrices"), _Weight(2, 11, "matrices")),
    "DynamicQuantizeMatMul": (_Weight(1, 3, "matrices"),),
    "MatMulInteger": (_Weight(1, 3, "matrices"),),
    "MatMulIntegerToFloat": (_Weight(1, 5, "matrices"),),
    "QAttention": (_Weight(1, 7, "matrices"),),
    "QGemm": (_Weight(3, 5, "matrices"),),
    "QLinearConv": (_Weight(3, 5, "pixels"),),
    "QLinearMatMul": (_Weight(3, 5, "matrices"),),
}
"""Operators of 8-bit products. ``planes`` are added plane by plane, ``pixels`` pixel by pixel, ``matrices`` by rows."""

_FLOAT = {"Conv": ("pixels", (1,)), "Gemm": ("matrices", (1,)), "MatMul": ("matrices", (1,)), "LSTM": ("rows", (1, 2))}
"""Operators that become 8-bit products: layout and positions of their weights."""


def limit_pairs(graph: onnx.GraphProto, nodes: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the range of each channel's weights with which the quantizers make products that cannot saturate.

    The scale of a channel grows just as much as its largest pair of weights needs. That costs less than weights of
    seven bits, which bound every pair by the largest weight.

    Parameters
    ----------
    graph
        The float graph.
    nodes
        Names of the nodes to quantize.

    Returns
    -------
    dict
        By name of the weight, what ``TensorQuantOverrides`` of ``onnxruntime.quantization`` takes.
    """
    chosen, known = set(nodes), weights(graph)
    found: dict[str, list[dict[str, Any]]] = {}
    for node in graph.node:
        layout, positions = _FLOAT.get(node.op_type, ("", ()))
        if node.name not in chosen or not layout:
            continue
        for position in positions:
            weight = known.get(node.input[position])
            if weight is None or weight.data_type != TensorProto.FLOAT:
                continue
            if layout == "matrices" and len(weight.dims) != _MATRIX:  # products of stacks of matrices stay float
                continue
            channels = _channels(array(weight), layout, node)
            if channels is None:
                continue
            terms, aligned = channels
            reach = np.maximum(np.max(np.abs(terms), axis=1, initial=0.0), largest_pairs(terms, aligned=aligned))
            axis = _channel_axis(node)
            former = found.get(weight.name)
            if former is not None and former[0]["axis"] == axis and len(former) == len(reach):  # two nodes share it
                reach = np.maximum(reach, [each["rmax"] for each in former])
            found[weight.name] = [{"axis": axis, "rmin": -value, "rmax": value} for value in map(float, reach)]
    return found


def saturating(model: onnx.ModelProto) -> list[str]:
    """Return the names of the 8-bit products whose sums some input could saturate on x86_64 without VNNI."""
    known, made = weights(model.graph), producers(model.graph)
    found = []
    for node in all_nodes(model):
        for position, zero_point, layout in _QUANTIZED.get(node.op_type, ()):
            weight = known.get(node.input[position])
            if weight is None:
                zero = known.get(node.input[zero_point]) if len(node.input) > zero_point else None
                if zero is not None and zero.data_type == TensorProto.INT8:  # activations on both sides
                    found.append(node.name)
            elif _can_saturate(weight, layout, node):
                found.append(node.name)
        # The same products in QDQ form.
        layout, positions = _FLOAT.get(node.op_type, ("", ()))
        for position in positions if node.op_type != "LSTM" else ():
            dequantize = made.get(node.input[position])
            activation = made.get(node.input[0])
            if any(n is None or n.op_type != "DequantizeLinear" for n in (dequantize, activation)):
                continue
            weight = known.get(dequantize.input[0]) if dequantize is not None else None
            if weight is not None and _can_saturate(weight, layout, node):
                found.append(node.name)
    return list(dict.fromkeys(found))


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with unsigned weights in its 8-bit operators: the same sums, which saturate on no CPU."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = weights(copy.graph)
    replaced: dict[str, str] = {}
    for node in all_nodes(copy):
        for position, zero_point, _ in _QUANTIZED.get(node.op_type, ()):
            weight = known.get(node.input[position])
            if weight is None or weight.data_type != TensorProto.INT8:
                continue
            zero = known.get(node.input[zero_point]) if len(node.input) > zero_point else None
            zeros = np.zeros((), np.int8) if zero is None else array(zero)
            node.input.extend([""] * (zero_point + 1 - len(node.input)))
            node.input[zero_point] = add_weight(copy.graph, f"{node.input[position]}_unsigned_zero", _shifted(zeros))
            if weight.name not in replaced:
                replaced[weight.name] = add_weight(copy.graph, f"{weight.name}_unsigned", _shifted(array(weight)))
            node.input[position] = replaced[weight.name]
    used = {name for node in all_nodes(copy) for name in node.input}
    kept = [weight for weight in copy.graph.initializer if weight.name in used]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _shifted(values: Array) -> Array:
    return (values.astype(np.int16) + _SHIFT).astype(np.uint8)


def _can_saturate(weight: TensorProto, layout: str, node: onnx.NodeProto) -> bool:
    if weight.data_type != TensorProto.INT8:
        return False
    channels = _channels(array(weight), layout, node)
    if channels is None:
        return False
    terms, aligned = channels
    return bool(np.max(largest_pairs(terms.astype(np.int32), aligned=aligned), initial=0) > PAIR_LIMIT)


def _channels(values: Numbers, layout: str, node: onnx.NodeProto) -> tuple[Numbers, bool] | None:
    """Return weights as (channels, terms in the order of the sum), and whether pairs start at even terms only.

    None if their products are added in 32 bits.
    """
    if layout in ("pixels", "planes"):
        outputs, channels = values.shape[:2]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if channels == 1 and outputs == groups:
            return None
        # Pairs are two channels of a pixel. With an odd number of channels, kernels differ in where pairs start, and
        # the first layer's pixels may be arranged in blocks: see `stem`.
        aligned = layout == "pixels" and channels % 2 == 0
        terms = np.moveaxis(values, 1, -1) if layout == "pixels" else values
        return terms.reshape(outputs, -1), aligned
    if layout == "rows":
        return values.reshape(-1, values.shape[-1]), True
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    columns = values if turned else np.swapaxes(values, -1, -2)
    return columns.reshape(-1, columns.shape[-1]), True


def largest_pairs(terms: Numbers, *, aligned: bool) -> Numbers:
    """Return for each channel the largest magnitude of two neighbouring weights of one sign that may be added first."""
    terms = np.pad(terms, ((0, 0), (0, 1)))
    positive, negative = np.maximum(terms, 0), np.maximum(-terms, 0)
    step = 2 if aligned else 1
    largest: Numbers = np.maximum(
        *(np.max(part[:, :-1:step] + part[:, 1::step], axis=1, initial=0) for part in (positive, negative))
    )
    return largest


def _channel_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a weight that has a scale for each index."""
    if node.op_type in ("Conv", "LSTM"):  # the quantizer joins the directions of an LSTM with its rows
        return 0
    return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
