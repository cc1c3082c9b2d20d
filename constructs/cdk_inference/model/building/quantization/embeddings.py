"""Tables of embeddings in 8 bits: only the rows that are looked up become float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import add_weight, array, replace_nodes, weights
from cdk_inference.model.building.graph.stored import is_finite, quantize_rows
from cdk_inference.model.building.quantization.selection import is_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_ROWS = 32
"""Smaller tables stay float: nothing to gain."""


def quantize_embeddings(graph: onnx.GraphProto, excluded: set[str]) -> int:
    """Replace lookups in float tables by lookups in int8 ones with a scale per row, in place; return how many."""
    known = weights(graph)
    tables: dict[str, tuple[str, str]] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node in graph.node:
        table = known.get(node.input[0]) if node.op_type == "Gather" and node.name not in excluded else None
        if table is None or not is_matrix(table) or table.dims[0] < MIN_ROWS or _axis(node) not in (0, -2):
            continue
        if node.input[1] in known:  # folded when the model is loaded: stays small
            continue
        if table.name not in tables:
            values = array(table)
            if not is_finite(values):
                continue
            rows, scale = quantize_rows(values, 1)
            names = f"{table.name}_int8", f"{table.name}_scale"
            tables[table.name] = (add_weight(graph, names[0], rows), add_weight(graph, names[1], scale))
        rows_name, scale_name = tables[table.name]
        out, indices = node.output[0], node.input[1]
        make = onnx.helper.make_node
        # Not "scale": the quantizer calls its own so, of what a product takes.
        replaced[node.name] = [
            make("Gather", [rows_name, indices], [f"{out}_rows"], name=f"{node.name}_rows", axis=0),
            make("Gather", [scale_name, indices], [f"{out}_factor"], name=f"{node.name}_factor", axis=0),
            make("Cast", [f"{out}_rows"], [f"{out}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            make("Mul", [f"{out}_cast", f"{out}_factor"], [out], name=f"{node.name}_unfold"),
        ]
    if replaced:
        replace_nodes(graph, replaced)
    return len(replaced)


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 0)
