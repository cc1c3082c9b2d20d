"""Static int8: uint8 activations, int8 weights per channel, in QDQ format.

U8S8 rather than S8S8: the latter is several times slower on x86, and both run on Arm's int8 dot products.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import (
    constants,
    consumers,
    opset,
    producers,
    replace_nodes,
    sort_nodes,
    weights,
)
from cdk_inference.model.building.graph.saturation import limit_pairs
from cdk_inference.model.building.quantization.dynamic import quantize_products
from cdk_inference.model.building.quantization.gemms import gemms_as_products
from cdk_inference.model.building.quantization.selection import MIN_WEIGHTS, is_plain, named, products
from cdk_inference.model.building.quantization.stem import fold_normalisation, unfold_strides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.model.recipe.precision import StaticInt8

CONVOLUTIONS = ("Conv", "ConvTranspose")
ACTIVATIONS = ("Clip", "Relu")
# Operators that can pass 8-bit values on between convolutions, and hardly lose by it.
AROUND = ("AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Pad", "Resize", *ACTIVATIONS)
# Operators with an int8 kernel on the CPU, and those between them that can pass 8-bit values on.
OPERATORS = (
    *CONVOLUTIONS,
    *AROUND,
    "Add",
    "Flatten",
    "Gemm",
    "LeakyRelu",
    "MatMul",
    "Mul",
    "ReduceMean",
    "Reshape",
    "Sigmoid",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
# Operators after which a tail begins. A mean evens out the rounding of its input.
_HEAVY = (
    *CONVOLUTIONS,
    *("Einsum", "Gemm", "GRU", "LSTM", "MatMul", "RNN"),
    *("AveragePool", "GlobalAveragePool", "ReduceMean"),
)
_SHAPING = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_PREPARING = ("Add", "Cast", "Div", "Mul", "Sub", "Transpose")
_BIAS = 2  # place among the inputs
_OPSET = 13  # before, weights have one scale in all


def convert_static(
    model: onnx.ModelProto,
    precision: StaticInt8,
    ranges: Mapping[str, tuple[float, float]] | None,
    *,
    saturates: bool,
) -> onnx.ModelProto:
    """Return the model quantized with the ranges; its outputs are not quantized.

    Parameters
    ----------
    saturates
        Whether it is for CPUs that add products in 16 bits; see `saturation`.
    """
    if ranges is None:
        raise ModelBuildError("static int8 needs the ranges of the activations; give the recipe calibration data")
    if opset(model) < _OPSET:
        raise ModelBuildError(
            f"static int8 needs operator set {_OPSET} or newer, the model has {opset(model)} and cannot be converted"
        )
    kept = named(model.graph, precision.keep_float, "keep_float")
    mixed = named(model.graph, precision.dynamic, "dynamic") - kept
    complete = _complete(model.graph, ranges)
    tail = _tail(model.graph)
    static = _quantizable(model.graph, complete, kept | mixed | tail, around_convolutions=bool(precision.dynamic))
    heavy = [n.name for n in model.graph.node if n.name in static and n.op_type in (*CONVOLUTIONS, "Gemm", "MatMul")]
    if not heavy:
        raise ModelBuildError(
            "static int8 needs convolutions or products with constant weights and known ranges, got none"
        )
    dynamic = [n for n in products(model.graph, kept) if n in mixed]
    dynamic += [n.name for n in model.graph.node if n.name in mixed and n.op_type == "LSTM"]
    if dynamic:
        matrices = gemms_as_products(model)
        model = quantize_products(model, [matrices.get(n, n) for n in dynamic], saturates=saturates)
    quantized = _quantize(model, static, complete, saturates=saturates)
    _keep_float(quantized.graph, tail)
    fold_normalisation(quantized.graph)
    unfold_strides(quantized.graph)
    return quantized


def _has_plain_bias(node: onnx.NodeProto, known: Mapping[str, TensorProto]) -> bool:
    """Tell whether a product has no bias, or a constant one of one axis."""
    if len(node.input) <= _BIAS or not node.input[_BIAS]:
        return True
    bias = known.get(node.input[_BIAS])
    return bias is not None and len(bias.dims) == 1


def activations(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the values whose ranges static quantization asks for, in graph order.

    The input of an activation alone is not among them: it is quantized with the range of what comes out.
    """
    fixed, taken = constants(graph), consumers(graph)
    found: dict[str, None] = {}
    for node in graph.node:
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            inputs = () if node.op_type in ACTIVATIONS else node.input
            found |= dict.fromkeys(n for n in (*inputs, *node.output) if n not in fixed)
    outputs = {v.name for v in graph.output}
    return [n for n in found if n in outputs or _activated(n, taken) is None]


def _activated(name: str, taken: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """Return the activation that alone takes a value."""
    users = taken.get(name, [])
    return users[0] if len(users) == 1 and users[0].op_type in ACTIVATIONS else None


def _complete(graph: onnx.GraphProto, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    taken = consumers(graph)
    complete = dict(ranges)
    for node in graph.node:
        for name in node.output:
            activation = _activated(name, taken)
            if name not in complete and activation is not None and activation.output[0] in ranges:
                complete[name] = ranges[activation.output[0]]
    return complete


def _quantizable(
    graph: onnx.GraphProto, ranges: Mapping[str, object], excluded: set[str], *, around_convolutions: bool
) -> set[str]:
    """Return the names of the nodes to quantize: those whose activations all have ranges."""
    known, made = weights(graph), producers(graph)
    outputs = {v.name for v in graph.output}
    operators = (*CONVOLUTIONS, *AROUND) if around_convolutions else OPERATORS
    found: set[str] = set()
    prepares = _normalising(graph)
    for node in graph.node:
        # The quantizer drops activations, whose effect their ranges include. Outputs are to keep theirs.
        last = node.op_type in ACTIVATIONS and outputs.intersection(node.output)
        if node.name in excluded or node.name in prepares or last or node.domain not in ("", "ai.onnx"):
            continue
        sums_convolutions = node.op_type == "Add" and any(n in made and made[n].name in found for n in node.input)
        if node.op_type not in operators and not sums_convolutions:
            continue
        weight = known.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in (*CONVOLUTIONS, "Gemm") and (weight is None or weight.data_type != TensorProto.FLOAT):
            continue
        if node.op_type in (*CONVOLUTIONS, "Gemm") and not _has_plain_bias(node, known):
            continue
        if node.op_type == "Gemm" and not is_plain(node):
            continue
        first = [node.input[0]] if node.op_type not in ("Add", "Concat", "MatMul", "Mul") else list(node.input)
        if all(n in ranges or n in known for n in first) and all(n in ranges for n in node.output):
            found.add(node.name)
    return found


def _normalising(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that shift and scale pixels: rounding in between would harm, and gain nothing."""
    known = weights(graph)
    pixels = {v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.UINT8}
    found: set[str] = set()
    for node in graph.node:
        others = [n for n in node.input if n not in known]
        if node.op_type in _PREPARING and len(others) == 1 and others[0] in pixels:
            found.add(node.name)
            pixels.update(node.output)
    return found


def _quantize(
    model: onnx.ModelProto, nodes: set[str], ranges: Mapping[str, tuple[float, float]], *, saturates: bool
) -> onnx.ModelProto:
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))  # the quantizer logs to the root
    # A value with a range is float; onnx cannot infer that after operators of onnxruntime's own.
    present = {v.name for v in (*model.graph.input, *model.graph.output)}
    del model.graph.value_info[:]
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ranges if name not in present
    )
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {
                name: (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
                for name, (low, high) in ranges.items()
            },
        ),
        nodes_to_quantize=[n.name for n in model.graph.node if n.name in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={"TensorQuantOverrides": limit_pairs(model.graph, nodes)} if saturates else {},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    sort_nodes(quantized.graph)
    return quantized


def _tail(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes after the last products: they have little to compute, and make the outputs.

    A detector joins boxes and scores there, which 8 bits with one range cannot hold. Or it takes a sigmoid, before
    which the percentile clips the best scores.
    """
    taken, made, known = consumers(graph), producers(graph), weights(graph)
    found: set[str] = set()
    for node in reversed(graph.node):
        users = [user.name for name in node.output for user in taken.get(name, [])]
        ends = node.op_type in _HEAVY and not _is_expectation(node, made, known)
        if not ends and found.issuperset(users):
            found.add(node.name)
    return found


def _is_expectation(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], known: Mapping[str, TensorProto]) -> bool:
    """Tell whether a product weighs what a softmax gives, as detectors find the edges of boxes."""
    weight, source = known.get(node.input[1]) if len(node.input) > 1 else None, made.get(node.input[0])
    while source is not None and source.op_type in _SHAPING:
        source = made.get(source.input[0])
    small = weight is not None and int(np.prod(weight.dims)) < MIN_WEIGHTS
    return small and source is not None and source.op_type == "Softmax"


def _keep_float(graph: onnx.GraphProto, tail: set[str]) -> None:
    """Take the quantize/dequantize pair off each output, and off what the tail alone takes.

    A quantized score has 256 levels, and what the percentile clips first is the best score.
    """
    made, taken = producers(graph), consumers(graph)
    outputs = {v.name for v in graph.output}
    for dequantize in [n for n in graph.node if n.op_type == "DequantizeLinear"]:
        name = dequantize.output[0]
        quantize = made.get(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        if name not in outputs and not tail.issuperset(user.name for user in taken.get(name, [])):
            continue
        source = quantize.input[0]
        graph.node.remove(dequantize)
        if len(taken[quantize.output[0]]) == 1:
            graph.node.remove(quantize)
        # An output keeps its name.
        old, new = (source, name) if name in outputs else (name, source)
        for node in graph.node:
            node.input[:] = [new if n == old else n for n in node.input]
            node.output[:] = [new if n == old else n for n in node.output]
    replace_nodes(graph, {})
