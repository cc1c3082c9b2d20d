"""Weights alone in 8 or 4 bits: matrix products in blocks with a scale each, embeddings and all else in int8.

Embeddings that are tied to a product are the blocks of that product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnxruntime.quantization.quant_utils import QuantFormat

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import CONTRIB, add_weight, array, replace_nodes, use_contrib, weights
from cdk_inference.model.building.graph.stored import store
from cdk_inference.model.building.quantization.divided import divide_products
from cdk_inference.model.building.quantization.embeddings import look_up_blocks, quantize_embeddings, tied_heads
from cdk_inference.model.building.quantization.fusions import fuse_gelu, keep_sums_apart
from cdk_inference.model.building.quantization.gemms import gemms_as_products
from cdk_inference.model.building.quantization.selection import named, products

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    tied = _even(graph, tied_heads(graph, chosen, kept), precision.block_size)
    changed = quantize_embeddings(graph, kept, tied)
    changed += store(graph, [n.name for n in graph.node if n.name not in kept])
    if not (changed or chosen):
        raise ModelBuildError(
            "weight-only quantization needs float weights of products, convolutions or embeddings, got none"
        )
    if chosen:
        matrices = gemms_as_products(model)
        renamed = [matrices.get(n, n) for n in chosen]
        quantize_blocks(model, renamed, bits=precision.bits, block_size=precision.block_size)
        made = {n.name: n for n in model.graph.node}
        heads = {table: made[f"{matrices.get(n, n)}_blocks"] for table, n in tied.items()}
        look_up_blocks(graph, heads, kept)
        divide_products(graph, {head.input[1] for head in heads.values()})
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


def _even(graph: onnx.GraphProto, tied: Mapping[str, str], block_size: int) -> dict[str, str]:
    """Return those of some tied tables whose rows are whole blocks."""
    known = weights(graph)
    return {table: n for table, n in tied.items() if not (row := known[table].dims[1]) % _fitting(row, block_size)}


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
