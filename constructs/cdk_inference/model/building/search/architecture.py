"""Tells which kind of network a graph is, and which precisions are worth trying on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx import TensorProto

from cdk_inference.model.building.graph.graph import all_nodes, consumers, opset, weights
from cdk_inference.model.building.graph.stored import MIN_STORED, STORED
from cdk_inference.model.building.quantization.selection import named, products
from cdk_inference.model.recipe.precision import DynamicInt8, Float16, StaticInt8, WeightOnly

if TYPE_CHECKING:
    import onnx

    from cdk_inference.model.recipe.precision import Auto, GraphPrecision

CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv"}
RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}
ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "DecoderMaskedMultiHeadAttention"}
QUANTIZED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}

_MIN_CONVOLUTIONS_PER_ATTENTION = 2  # a transformer of images has a few convolutions before its first layer
_STATIC_OPSET = 13


def architecture(model: onnx.ModelProto) -> str:
    """Return ``"convolutional"``, ``"transformer"``, ``"recurrent"``, ``"mixed"`` or ``"other"``."""
    counts = Counter(n.op_type for n in all_nodes(model))
    convolutions = sum(counts[o] for o in CONVOLUTIONS)
    attention = sum(counts[o] for o in ATTENTION) + _plain_attention(model.graph)
    recurrent = sum(counts[o] for o in RECURRENT)
    if attention and convolutions >= _MIN_CONVOLUTIONS_PER_ATTENTION * attention:
        return "mixed"
    if convolutions and recurrent:
        return "mixed"
    if attention:
        return "transformer"
    if recurrent:
        return "recurrent"
    return "convolutional" if convolutions else "other"


def is_quantized(model: onnx.ModelProto) -> bool:
    """Tell whether a graph is quantized already."""
    return any(n.op_type in QUANTIZED for n in all_nodes(model))


def candidates(model: onnx.ModelProto, policy: Auto, *, calibrated: bool) -> list[GraphPrecision]:
    """Return the precisions worth trying, the best guess first; none if the model is quantized or has no float weights.

    Parameters
    ----------
    model
        Fused and cleaned.
    policy
        The objective, and the nodes that stay float in all.
    calibrated
        Whether there is calibration data, which static quantization needs.

    Raises
    ------
    ModelBuildError
        If the policy names nodes that are not there.
    """
    graph = model.graph
    keep = policy.keep_float
    kept = named(graph, keep, "keep_float")
    if is_quantized(model) or not any(w.data_type == TensorProto.FLOAT for w in graph.initializer):
        return []
    matrices = products(graph, kept)
    known = weights(graph)
    storable = any(
        n.op_type in STORED
        and n.name not in kept
        and any(_count(known[i]) > MIN_STORED for i in n.input[1:3] if i in known)
        for n in graph.node
    )
    static = calibrated and opset(model) >= _STATIC_OPSET
    found: list[GraphPrecision] = []
    kind = architecture(model)
    if kind == "convolutional":
        if static:
            found += [StaticInt8("percentile", p, keep) for p in (99.999, 99.99)] + [StaticInt8("minmax", 100.0, keep)]
        found.append(WeightOnly(8, 128, keep))
    elif kind == "mixed":
        parts = tuple(o for o in ("MatMul", "Gemm", "LSTM") if any(n.op_type == o for n in graph.node))
        if static and parts:
            found.append(StaticInt8("percentile", 99.999, keep, parts))
        found.append(DynamicInt8(keep))
    elif kind == "transformer":
        found.append(DynamicInt8(keep))
        narrowing = tuple(n for n in matrices if _narrows(graph, n))
        found += [DynamicInt8(keep, narrowing)] if narrowing and len(narrowing) < len(matrices) else []
        found.append(WeightOnly(8, 128, keep))
    elif matrices or storable:
        found.append(DynamicInt8(keep))
        if kind == "other" and static:
            found.append(StaticInt8("percentile", 99.999, keep))
    if policy.objective == "size" and matrices and kind != "convolutional":
        found.append(WeightOnly(4, 32, keep))
    if not (matrices or storable or _has_table(graph)):
        found = [p for p in found if isinstance(p, StaticInt8)]
    return found or ([Float16(keep)] if policy.objective == "size" else [])


def _plain_attention(graph: onnx.GraphProto) -> int:
    """Count softmaxes whose result goes into a product with other activations."""
    taken, known = consumers(graph), weights(graph)
    passing = {
        "Cast",
        "DequantizeLinear",
        "Dropout",
        "Identity",
        "Mul",
        "QuantizeLinear",
        "Reshape",
        "Transpose",
        "Where",
    }
    found = 0
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        front = [node.output[0]]
        for _ in range(4):
            users = [u for name in front for u in taken.get(name, [])]
            if any(u.op_type in ("MatMul", "FusedMatMul", "Einsum") and u.input[1] not in known for u in users):
                found += 1
                break
            front = [u.output[0] for u in users if u.op_type in passing]
    return found


def _narrows(graph: onnx.GraphProto, name: str) -> bool:
    """Tell whether a product has fewer outputs than inputs, as the second of a feed-forward layer has.

    Its input has the widest range of all, and dynamic quantization harms it most.
    """
    node = next(n for n in graph.node if n.name == name)
    rows, columns = weights(graph)[node.input[1]].dims
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    inputs, outputs = (columns, rows) if transposed else (rows, columns)
    return bool(inputs >= 2 * outputs)


def _has_table(graph: onnx.GraphProto) -> bool:
    known = weights(graph)
    return any(
        n.op_type == "Gather" and n.input[0] in known and _count(known[n.input[0]]) > MIN_STORED for n in graph.node
    )


def _count(weight: TensorProto) -> int:
    total = 1
    for size in weight.dims:
        total *= size
    return total
