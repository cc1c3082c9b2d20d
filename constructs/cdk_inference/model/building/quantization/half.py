"""Float16 inside, with the inputs and outputs as declared."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from onnx import TensorProto
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import sort_nodes
from cdk_inference.model.building.quantization.selection import named

if TYPE_CHECKING:
    import onnx

    from cdk_inference.model.recipe.precision import Float16


def convert_half(model: onnx.ModelProto, precision: Float16) -> onnx.ModelProto:
    """Return the model with weights and arithmetic in float16."""
    if not any(w.data_type == TensorProto.FLOAT for w in model.graph.initializer):
        raise ModelBuildError("float16 needs float32 weights to convert, got none")
    kept = named(model.graph, precision.keep_float, "keep_float")
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    converted: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=list(DEFAULT_OP_BLOCK_LIST), node_block_list=sorted(kept)
    )
    sort_nodes(converted.graph)  # casts are appended at the end
    return converted
