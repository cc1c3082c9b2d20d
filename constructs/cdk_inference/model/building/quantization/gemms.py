"""Gemm written as MatMul and Add, which is what the quantizers know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxruntime.quantization.onnx_model import ONNXModel

from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import add_weight, array, consumers, replace_nodes, weights

if TYPE_CHECKING:
    import onnx


def gemms_as_products(model: onnx.ModelProto) -> dict[str, str]:
    """Write Gemm as MatMul and Add, in place, and return the names of the products by those of the Gemms."""
    gemms = [n.name for n in model.graph.node if n.op_type == "Gemm"]
    _turn(model.graph)
    ONNXModel(model).replace_gemm_with_matmul()
    names = {n.name for n in model.graph.node if n.op_type == "MatMul"}
    return {g: f"{g}_MatMul" for g in gemms if f"{g}_MatMul" in names}


def _turn(graph: onnx.GraphProto) -> None:
    """Turn matrices that a Gemm takes turned, where the rewriting cannot: those of files, and those that others take.

    It turns a matrix in place, for each Gemm that takes it. Others may be nodes, bodies of control flow, and whoever
    gets the outputs of the model.
    """
    known, users = weights(graph), consumers(graph)
    outputs = {v.name for v in graph.output}
    made: dict[str, str] = {}
    for node in graph.node:
        turned = [a for a in node.attribute if a.name == "transB" and a.i] if node.op_type == "Gemm" else []
        weight = known.get(node.input[1]) if turned else None
        if weight is None:
            continue
        shared = len(users[weight.name]) > 1 or weight.name in outputs
        if not (shared or aside.is_tensor_aside(weight)):
            continue
        if weight.name not in made:
            made[weight.name] = add_weight(graph, f"{weight.name}_turned", array(weight).T)
        node.input[1] = made[weight.name]
        node.attribute.remove(turned[0])
    if made:
        replace_nodes(graph, {})
