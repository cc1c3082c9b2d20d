"""Dynamic int8: weights per channel, activations quantized as they come."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from onnx import TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.quantization.tensor_quant_overrides import TensorQuantOverridesHelper

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import sort_nodes, use_contrib, weights
from cdk_inference.model.building.graph.saturation import limit_pairs
from cdk_inference.model.building.graph.stored import store
from cdk_inference.model.building.quantization.embeddings import quantize_embeddings, share_tables, tied_heads
from cdk_inference.model.building.quantization.fusions import fuse_gelu, keep_sums_apart
from cdk_inference.model.building.quantization.gemms import gemms_as_products
from cdk_inference.model.building.quantization.selection import named, products
from cdk_inference.model.building.quantization.smoothing import smooth
from cdk_inference.model.building.quantization.weight_only import quantize_blocks

if TYPE_CHECKING:
    import onnx

    from cdk_inference.model.recipe.precision import DynamicInt8

BLOCK_SIZE = 256
"""Block size of the weight-only products: larger blocks are faster, and in 8 bits as exact."""


def convert_dynamic(model: onnx.ModelProto, precision: DynamicInt8, *, saturates: bool) -> onnx.ModelProto:
    """Return the model with 8-bit matrix products and embeddings; its other large weights are stored in 8 bits.

    Parameters
    ----------
    saturates
        Whether it is for CPUs that add products in 16 bits; see `saturation`.
    """
    graph = model.graph
    kept = named(graph, precision.keep_float, "keep_float")
    blocks = named(graph, precision.weight_only, "weight_only") - kept
    chosen = products(graph, kept | blocks)
    shared = share_tables(graph, tied_heads(graph, chosen, kept), chosen, kept, saturates=saturates)
    if shared:
        use_contrib(model)
    dynamic = [*(n for n in chosen if n not in shared), *_recurrent(graph, kept)]
    in_blocks = [n for n in products(graph, kept) if n in blocks]
    changed = len(shared) + quantize_embeddings(graph, kept)
    changed += store(graph, [n.name for n in graph.node if n.name not in {*kept, *dynamic}])
    if not (changed or dynamic or in_blocks):
        raise ModelBuildError("dynamic int8 needs matrix products, LSTMs or embeddings with weights that fit, got none")
    matrices = gemms_as_products(model)
    renamed = [matrices.get(n, n) for n in dynamic]
    if in_blocks:
        quantize_blocks(model, [matrices.get(n, n) for n in in_blocks], bits=8, block_size=BLOCK_SIZE)
    smooth(model.graph, renamed)
    if renamed:
        model = quantize_products(model, renamed, saturates=saturates)
    fuse_gelu(model)
    keep_sums_apart(model.graph)
    return model


def quantize_products(model: onnx.ModelProto, nodes: list[str], *, saturates: bool) -> onnx.ModelProto:
    """Quantize the named matrix products and LSTMs dynamically, and nothing else."""
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))  # the quantizer logs to the root
    del model.graph.value_info[:]  # after Gemm became MatMul, what it says of shapes may be wrong
    quantizer = ONNXQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,  # U8S8: S8S8 is several times slower on x86
        tensors_range=None,
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul", "LSTM"],
        # Types that inference cannot find, after operators of onnxruntime's own: all others are float32 here.
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
    )
    if saturates:
        # Not as an option: it would be checked against the weights of LSTMs before their directions are joined.
        quantizer.tensor_quant_overrides = TensorQuantOverridesHelper(limit_pairs(model.graph, nodes))
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    sort_nodes(quantized.graph)
    return quantized


def _recurrent(graph: onnx.GraphProto, kept: set[str]) -> list[str]:
    """Return the LSTMs whose weights are constant, in the layout that the 8-bit operator has."""
    known = weights(graph)
    return [
        node.name
        for node in graph.node
        if node.op_type == "LSTM"
        and node.name not in kept
        and all(w is not None and w.data_type == TensorProto.FLOAT for w in map(known.get, node.input[1:3]))
        and not any(a.name == "layout" and a.i for a in node.attribute)
    ]
