"""Weights alone in 8 or 4 bits: matrix products in blocks with a scale each, embeddings and all else in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import QuantFormat

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.graph.graph import CONTRIB, add_weight, array, replace_nodes, use_contrib, weights
from cdk_inference.model.building.graph.stored import store
from cdk_inference.model.building.quantization.embeddings import quantize_embeddings
from cdk_inference.model.building.quantization.fusions import fuse_gelu, keep_sums_apart
from cdk_inference.model.building.quantization.selection import named, products

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.model.building.graph.graph import Array
    from cdk_inference.model.recipe.precision import WeightOnly

ACCURACY_LEVEL = 4
"""Products in int8 with activations quantized by block; level 0 unfolds the weights to float, several times slower."""

_FILLED = 0.05  # zeros as a share of a matrix


def convert_weight_only(model: onnx.ModelProto, precision: WeightOnly) -> onnx.ModelProto:
    """Return the model with the weights of matrix products in blocks."""
    graph = model.graph
    kept = named(graph, precision.keep_float, "keep_float")
    chosen = products(graph, kept)
    changed = quantize_embeddings(graph, kept)
    changed += store(graph, [n.name for n in graph.node if n.name not in kept])
    if not (changed or chosen):
        raise ModelBuildError(
            "weight-only quantization needs float weights of products, convolutions or embeddings, got none"
        )
    if chosen:
        _turn_gemms(graph)
        ONNXModel(model).replace_gemm_with_matmul()
        names = {n.name for n in model.graph.node}
        chosen = [n if n in names else f"{n}_MatMul" for n in chosen]
        quantize_blocks(model, chosen, bits=precision.bits, block_size=precision.block_size)
        fuse_gelu(model)
        keep_sums_apart(model.graph)
    return model


def quantize_blocks(model: onnx.ModelProto, nodes: list[str], *, bits: int, block_size: int) -> None:
    """Quantize the weights of the named matrix products in blocks, one after the other, in place.

    Parameters
    ----------
    block_size
        The largest; matrices that it does not divide get smaller blocks, so that little is filled with zeros.
    """
    graph = model.graph
    known, chosen = weights(graph), set(nodes)
    made: dict[str, tuple[str, str, int]] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.name not in chosen:
            continue
        weight = known[node.input[1]]
        rows, columns = weight.dims
        if weight.name not in made:
            size = _fitting(rows, block_size)
            blocks, scales = _quantized(array(weight), bits, size)
            names = f"{weight.name}_blocks", f"{weight.name}_scales"
            made[weight.name] = add_weight(graph, names[0], blocks), add_weight(graph, names[1], scales), size
        *inputs, size = made[weight.name]
        attributes = {"K": rows, "N": columns, "bits": bits, "block_size": size, "accuracy_level": ACCURACY_LEVEL}
        replaced[node.name] = [
            onnx.helper.make_node(
                "MatMulNBits",
                [node.input[0], *inputs],
                [node.output[0]],
                name=f"{node.name}_blocks",
                domain=CONTRIB,
                **attributes,
            )
        ]
    replace_nodes(graph, replaced)
    use_contrib(model)


def _fitting(rows: int, largest: int) -> int:
    sizes = [s for s in (256, 128, 64, 32, 16) if s <= largest]
    filled = {s: -rows % s / rows for s in sizes}
    return next((s for s in sizes if filled[s] <= _FILLED), min(sizes, key=lambda s: (filled[s], -s)))


def _quantized(matrix: Array, bits: int, block_size: int) -> tuple[Array, Array]:
    """Return the blocks of a matrix's columns, with values of a byte packed together, and the scale of each block."""
    # Imports sympy, which takes a second.
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=block_size, is_symmetric=True, bits=bits, quant_format=QuantFormat.QOperator
    )
    blocks, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(matrix))
    return blocks, scales


def _turn_gemms(graph: onnx.GraphProto) -> None:
    """Turn matrices of files that a Gemm takes turned: the rewriting of Gemm knows no weights of files."""
    known = weights(graph)
    for node in graph.node:
        turned = [a for a in node.attribute if a.name == "transB" and a.i] if node.op_type == "Gemm" else []
        weight = known.get(node.input[1]) if turned else None
        if weight is not None and aside.is_tensor_aside(weight):
            node.input[1] = add_weight(graph, f"{weight.name}_turned", array(weight).T)
            node.attribute.remove(turned[0])
