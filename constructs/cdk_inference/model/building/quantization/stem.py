"""Makes the first, strided convolution of a quantized image network as fast as the others. Exact.

8-bit kernels take channels in fours: a convolution of three colours is copied together pixel by pixel instead, and
takes longer than any other. With strides of two, blocks of 2 x 2 pixels become twelve channels, and the kernel half as
wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cdk_inference.model.building.graph.graph import add_weight, array, consumers, producers, replace_nodes, weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    Attributes = dict[str, onnx.AttributeProto]

_BLOCK = 2
_CHANNELS = 4
_PIXEL = 255
_SHAPE_KEEPING = ("Cast", "QuantizeLinear", "DequantizeLinear", "Add", "Div", "Mul", "Sub")


def fold_normalisation(graph: onnx.GraphProto) -> int:
    """Read ``(x - zero) / scale`` of uint8 pixels, then quantized, as 8-bit values that have this zero and scale.

    Only where zero is a whole number, so that nothing is rounded. Works in place; returns how many.
    """
    made, taken, known = producers(graph), consumers(graph), weights(graph)
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for cast in graph.node:
        if cast.op_type != "Cast" or not _is_uint8(graph, made, cast.input[0]):
            continue
        chain = [cast]
        zero, scale = np.float32(0), np.float32(1)
        while (users := taken.get(chain[-1].output[0], [])) and len(users) == 1:
            step = users[0]
            value = _scalar(known, step.input[1]) if len(step.input) > 1 else None
            if step.op_type == "QuantizeLinear" or value is None or step.input[0] != chain[-1].output[0]:
                break
            if step.op_type in ("Sub", "Add"):
                zero = zero + (value if step.op_type == "Sub" else -value) / scale
            elif step.op_type in ("Div", "Mul") and value > 0:
                scale = scale / value if step.op_type == "Div" else scale * value
            else:
                break
            chain.append(step)
        quantize = users[0] if len(users) == 1 and users[0].op_type == "QuantizeLinear" else None
        dequantizes = taken.get(quantize.output[0], []) if quantize is not None else []
        whole = 0 <= zero <= _PIXEL and zero == np.rint(zero)
        if quantize is None or not whole or not all(d.op_type == "DequantizeLinear" for d in dequantizes):
            continue
        names = [
            add_weight(graph, f"{cast.output[0]}_scale", np.array(scale, np.float32)),
            add_weight(graph, f"{cast.output[0]}_zero", np.array(zero, np.uint8)),
        ]
        for dequantize in dequantizes:
            dequantize.input[:] = [cast.input[0], *names]
        replaced |= {n.name: () for n in (*chain, quantize)}
    if replaced:
        replace_nodes(graph, replaced)
    return len(replaced)


def unfold_strides(graph: onnx.GraphProto) -> int:
    """Let convolutions of few channels with strides of two see blocks of pixels as channels; return how many."""
    made, known = producers(graph), weights(graph)
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for conv in graph.node:
        dequantized = [made.get(n) for n in conv.input[:2]] if conv.op_type == "Conv" else []
        if len(dequantized) < 2 or any(n is None or n.op_type != "DequantizeLinear" for n in dequantized):  # noqa: PLR2004
            continue
        pixels, kernel = dequantized
        assert pixels is not None and kernel is not None  # noqa: S101, PT018 - checked above
        weight = known.get(kernel.input[0])
        sizes = _sizes(graph, made, known, pixels.input[0])
        attributes = {a.name: a for a in conv.attribute}
        if weight is None or sizes is None or not _fits(weight, sizes, attributes) or pixels.name in replaced:
            continue
        users = consumers(graph)
        if len(users[pixels.output[0]]) > 1 or len(users[kernel.output[0]]) > 1 or len(users[kernel.input[0]]) > 1:
            continue
        pads = list(attributes["pads"].ints) if "pads" in attributes else [0] * 4
        values = array(weight)
        layout = [_axis(values.shape[2 + a], pads[a], pads[2 + a], sizes[a]) for a in (0, 1)]
        if any(last < 0 for _, _, _, last in layout):
            continue
        unfolded = _unfold(values, [(before, after) for before, after, _, _ in layout])
        weight.CopyFrom(numpy_helper.from_array(unfolded, weight.name))
        _set(conv, "pads", [first for _, _, first, _ in layout] + [last for _, _, _, last in layout])
        _set(conv, "strides", [1, 1])
        _set(conv, "kernel_shape", list(unfolded.shape[2:]))
        blocks = f"{conv.output[0]}_blocks"
        space = onnx.helper.make_node(
            "SpaceToDepth", [pixels.input[0]], [blocks], name=f"{conv.name}_blocks", blocksize=_BLOCK
        )
        pixels.input[0] = blocks
        replaced[pixels.name] = (space, pixels)
    if replaced:
        replace_nodes(graph, replaced)
    return len(replaced)


def _fits(weight: TensorProto, sizes: tuple[int, int], attributes: Attributes) -> bool:
    group = attributes["group"].i if "group" in attributes else 1
    strides = list(attributes["strides"].ints) if "strides" in attributes else [1, 1]
    dilations = list(attributes["dilations"].ints) if "dilations" in attributes else [1, 1]
    automatic = "auto_pad" in attributes and attributes["auto_pad"].s not in (b"", b"NOTSET")
    return (
        len(weight.dims) == 4  # noqa: PLR2004
        and weight.data_type == TensorProto.INT8
        and weight.dims[1] < _CHANNELS
        and group == 1
        and strides == [_BLOCK, _BLOCK]
        and dilations == [1, 1]
        and not automatic
        and all(size % _BLOCK == 0 for size in sizes)
    )


def _axis(kernel: int, before: int, after: int, size: int) -> tuple[int, int, int, int]:
    """Return zeros before and after the kernel, and blocks of padding before and after the image, along one axis."""
    first = before % _BLOCK
    blocks = (first + kernel + 1) // _BLOCK
    outputs = (size + before + after - kernel) // _BLOCK + 1
    padding = (before + first) // _BLOCK
    return first, blocks * _BLOCK - first - kernel, padding, outputs - 1 + blocks - padding - size // _BLOCK


def _unfold(values: np.ndarray, zeros: list[tuple[int, int]]) -> np.ndarray:
    padded = np.pad(values, ((0, 0), (0, 0), *zeros))
    out, channels, height, width = padded.shape
    blocks = padded.reshape(out, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    # SpaceToDepth counts rows, then columns in a block, then colours.
    return np.ascontiguousarray(blocks.transpose(0, 3, 5, 1, 2, 4)).reshape(
        out, channels * _BLOCK * _BLOCK, height // _BLOCK, width // _BLOCK
    )


def _set(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    others = [a for a in node.attribute if a.name != name]
    others.append(onnx.helper.make_attribute(name, values))
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in sorted(others, key=lambda a: a.name)]
    del node.attribute[:]
    node.attribute.extend(copies)


def _scalar(known: dict[str, TensorProto], name: str) -> np.float32 | None:
    weight = known.get(name)
    if weight is None or weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) != 1:
        return None
    return np.float32(array(weight).item())


def _is_uint8(graph: onnx.GraphProto, made: dict[str, onnx.NodeProto], name: str) -> bool:
    """Tell whether a value is a uint8 input, or one with its axes in another order."""
    while (node := made.get(name)) is not None and node.op_type == "Transpose":
        name = node.input[0]
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    return kinds.get(name) == TensorProto.UINT8


def _sizes(
    graph: onnx.GraphProto, made: dict[str, onnx.NodeProto], known: dict[str, TensorProto], name: str
) -> tuple[int, int] | None:
    """Return height and width of a 4-D value (batch, channel, height, width) if they are known to be constant."""
    orders: list[list[int]] = []
    while (node := made.get(name)) is not None:
        elementwise = len(node.input) < 2 or all(n in known and np.prod(known[n].dims) == 1 for n in node.input[1:])  # noqa: PLR2004
        channelwise = (
            node.op_type in ("Add", "Div", "Mul", "Sub")
            and all(
                n in known and len(known[n].dims) <= 4  # noqa: PLR2004
                for n in node.input[1:]
            )
        )
        if node.op_type == "Transpose":
            orders.append(next((list(a.ints) for a in node.attribute if a.name == "perm"), []))
        elif node.op_type not in _SHAPE_KEEPING or not (elementwise or channelwise):
            return None
        name = node.input[0]
    value = next((v for v in graph.input if v.name == name), None)
    if value is None:
        return None
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    for order in reversed(orders):
        if len(order) != len(dims):
            return None
        dims = [dims[i] for i in order]
    return (dims[2], dims[3]) if len(dims) == 4 and min(dims[2:]) > 0 else None  # noqa: PLR2004
