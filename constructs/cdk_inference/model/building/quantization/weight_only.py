"""Weights alone in 8 or 4 bits: matrix products in blocks with a scale each, embeddings and all else in int8."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import QuantFormat

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import all_nodes, weights
from cdk_inference.model.building.graph.stored import store
from cdk_inference.model.building.quantization.embeddings import quantize_embeddings
from cdk_inference.model.building.quantization.fusions import fuse_gelu, keep_sums_apart
from cdk_inference.model.building.quantization.selection import named, products

if TYPE_CHECKING:
    import onnx

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
        ONNXModel(model).replace_gemm_with_matmul()
        names = {n.name for n in model.graph.node}
        chosen = [n if n in names else f"{n}_MatMul" for n in chosen]
        model = quantize_blocks(model, chosen, bits=precision.bits, block_size=precision.block_size)
        fuse_gelu(model)
        keep_sums_apart(model.graph)
    return model


def quantize_blocks(model: onnx.ModelProto, nodes: list[str], *, bits: int, block_size: int) -> onnx.ModelProto:
    """Quantize the weights of the named matrix products in blocks, and nothing else.

    Parameters
    ----------
    block_size
        The largest; matrices that it does not divide get smaller blocks, so that little is filled with zeros.
    """
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    known = weights(model.graph)
    chosen = set(nodes)
    groups: dict[int, list[str]] = {}
    for node in model.graph.node:
        if node.name in chosen:
            groups.setdefault(_fitting(known[node.input[1]].dims[0], block_size), []).append(node.name)
    for size in sorted(groups):
        model = _quantize_group(model, set(groups[size]), bits, size)
    return model


def _fitting(rows: int, largest: int) -> int:
    sizes = [s for s in (256, 128, 64, 32, 16) if s <= largest]
    filled = {s: -rows % s / rows for s in sizes}
    return next((s for s in sizes if filled[s] <= _FILLED), min(sizes, key=lambda s: (filled[s], -s)))


def _quantize_group(model: onnx.ModelProto, chosen: set[str], bits: int, block_size: int) -> onnx.ModelProto:
    # Imports sympy, which takes a second.
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=block_size,
        is_symmetric=True,
        accuracy_level=ACCURACY_LEVEL,
        bits=bits,
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=("MatMul",),
    )
    others = [n.name for n in all_nodes(model) if n.op_type == "MatMul" and n.name not in chosen]
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config)
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized
