"""Rewrites that make what surrounds the quantized products fast; exact, and in operators that run on every CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from cdk_inference.model.building.graph.graph import (
    CONTRIB,
    array,
    consumers,
    producers,
    replace_nodes,
    use_contrib,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import TensorProto


def fuse_gelu(model: onnx.ModelProto) -> int:
    """Fuse GELU as the exporter of PyTorch writes it, ``x * (0.5 * (1 + erf(x / sqrt(2))))``; return how many.

    onnxruntime fuses other spellings when it loads a model, but not this one.
    """
    graph = model.graph
    made, taken, known = producers(graph), consumers(graph), weights(graph)
    outputs = {v.name for v in graph.output}

    def only(node: onnx.NodeProto, operator: str) -> onnx.NodeProto | None:
        """Return the node's only consumer if it is of the operator."""
        users = taken.get(node.output[0], [])
        single = len(users) == 1 and users[0].op_type == operator and node.output[0] not in outputs
        return users[0] if single else None

    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for erf in graph.node:
        scaled = made.get(erf.input[0]) if erf.op_type == "Erf" else None
        if scaled is None or only(scaled, "Erf") is None:
            continue
        divides = scaled.op_type == "Div" and _is(known, scaled.input[1], np.sqrt(2))
        multiplies = scaled.op_type == "Mul" and _is(known, scaled.input[1], np.sqrt(0.5))
        add = only(erf, "Add")
        half = only(add, "Mul") if add is not None else None
        last = only(half, "Mul") if half is not None else None
        if add is None or half is None or last is None or not (divides or multiplies):
            continue
        one_and_half = any(_is(known, n, 1.0) for n in add.input) and any(_is(known, n, 0.5) for n in half.input)
        x = scaled.input[0]
        if one_and_half and x in last.input and half.output[0] in last.input:
            gelu = onnx.helper.make_node("Gelu", [x], [last.output[0]], name=f"{last.name}_gelu", domain=CONTRIB)
            replaced |= {n.name: () for n in (scaled, erf, add, half)} | {last.name: (gelu,)}
    if replaced:
        replace_nodes(graph, replaced)
        use_contrib(model)
    return len(replaced) // 5


def keep_sums_apart(graph: onnx.GraphProto) -> None:
    """Write the sums before layer norms so that onnxruntime leaves both as they are.

    It joins ``Add`` and ``LayerNormalization`` into one operator that takes several times as long as the two on a CPU.
    """
    made, known = producers(graph), weights(graph)
    for node in graph.node:
        add = made.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if add is not None and add.op_type == "Add" and not any(n in known for n in add.input):
            add.op_type = "Sum"


def _is(known: dict[str, TensorProto], name: str, value: float) -> bool:
    weight = known.get(name)
    return weight is not None and np.prod(weight.dims) == 1 and bool(np.isclose(array(weight), value, rtol=1e-5).all())
