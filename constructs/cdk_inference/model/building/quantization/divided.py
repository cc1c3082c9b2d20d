"""Products in blocks that are divided, so that ONNX Runtime packs a large matrix part by part."""

from __future__ import annotations

from math import gcd, lcm
from typing import TYPE_CHECKING

import onnx

from cdk_inference.model.building.graph.graph import add_weight, array, replace_nodes, weights
from cdk_inference.model.files.weights import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

PART_BYTES = 8 << 20


def divide_products(graph: onnx.GraphProto, matrices: Collection[str]) -> None:
    """Divide the products in blocks that take large matrices, in place: each part makes some of the columns.

    ONNX Runtime keeps a matrix mapped while it packs it. One that lookups read too stays mapped as long as the model is
    open. The parts are further weights with the same bytes, which `weights.lay_out` stores once. Each is mapped until
    it is packed, and the whole for the rows that are looked up alone.

    Parameters
    ----------
    matrices
        The blocks of ``MatMulNBits`` without zero points and biases.
    """
    known = weights(graph)
    made: dict[str, list[tuple[str, str, int]]] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type != "MatMulNBits" or node.input[1] not in matrices:
            continue
        blocks, scales = (known[name] for name in node.input[1:3])
        if blocks.name not in made:
            made[blocks.name] = _parts(graph, blocks, scales)
        if len(made[blocks.name]) > 1:
            replaced[node.name] = _divided(node, made[blocks.name])
    replace_nodes(graph, replaced)


def _parts(graph: onnx.GraphProto, blocks: onnx.TensorProto, scales: onnx.TensorProto) -> list[tuple[str, str, int]]:
    """Add the parts of a matrix, and return the blocks, the scales and the number of columns of each."""
    rows, factors = array(blocks), array(scales).reshape(blocks.dims[0], -1)
    # The blocks and the scales of each part begin on a page.
    pages = lcm(*(ALIGNMENT // gcd(ALIGNMENT, int(values[0].nbytes)) for values in (rows, factors)))
    step = max(1, PART_BYTES // (pages * int(rows[0].nbytes))) * pages
    starts = range(0, len(rows), step)
    if len(starts) == 1:
        return [(blocks.name, scales.name, len(rows))]
    return [
        (
            add_weight(graph, f"{blocks.name}_part", rows[at : at + step]),
            add_weight(graph, f"{scales.name}_part", factors[at : at + step].reshape(-1)),
            len(rows[at : at + step]),
        )
        for at in starts
    ]


def _divided(node: onnx.NodeProto, parts: Sequence[tuple[str, str, int]]) -> list[onnx.NodeProto]:
    """Return a product for each part, and what joins their columns."""
    made: list[onnx.NodeProto] = []
    for number, (blocks, scales, columns) in enumerate(parts):
        part = onnx.NodeProto()
        part.CopyFrom(node)
        part.name, part.output[0] = f"{node.name}_{number}", f"{node.output[0]}_{number}"
        part.input[1:3] = [blocks, scales]
        next(a for a in part.attribute if a.name == "N").i = columns
        made.append(part)
    outputs = [part.output[0] for part in made]
    return [*made, onnx.helper.make_node("Concat", outputs, node.output, name=f"{node.name}_joined", axis=-1)]
