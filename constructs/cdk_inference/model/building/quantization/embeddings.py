"""Tables of embeddings in 8 bits, or in the blocks of a head that they are tied to: only rows in use become float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import CONTRIB, add_weight, array, replace_nodes, weights
from cdk_inference.model.building.graph.stored import is_finite, quantize_rows
from cdk_inference.model.building.quantization.selection import is_matrix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from cdk_inference.model.building.graph.graph import Array

MIN_ROWS = 32
"""Smaller tables stay float: nothing to gain."""


_PART = 1 << 12  # rows that are compared at once


def quantize_embeddings(graph: onnx.GraphProto, excluded: set[str], tied: Collection[str] = ()) -> int:
    """Replace lookups in float tables by lookups in int8 ones with a scale per row, in place; return how many.

    Parameters
    ----------
    excluded
        Nodes that stay as they are.
    tied
        Tables that stay as they are.
    """
    tables: dict[str, tuple[str, str]] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node, table in _lookups(graph, excluded):
        if table.name in tied:
            continue
        if table.name not in tables:
            values = array(table)
            if not is_finite(values):
                continue
            rows, scale = quantize_rows(values, 1)
            # Not "scale": the quantizer calls its own so, of a product that takes the table too.
            names = f"{table.name}_int8", f"{table.name}_factors"
            tables[table.name] = (add_weight(graph, names[0], rows), add_weight(graph, names[1], scale))
        replaced[node.name] = _unfolded(node, *tables[table.name])
    if replaced:
        replace_nodes(graph, replaced)
    return len(replaced)


def share_tables(
    graph: onnx.GraphProto, heads: Mapping[str, str], products: Collection[str], excluded: set[str], *, saturates: bool
) -> set[str]:
    """Let products take the tables of embeddings that they are tied to, in int8 and in place; return their names.

    Parameters
    ----------
    heads
        A product of each table, as `tied_heads` found it.
    products
        Products that may be replaced.
    excluded
        Nodes that stay as they are.
    saturates
        Whether it is for CPUs that add products in 16 bits; see `saturation`.
    """
    known, nodes = weights(graph), {n.name: n for n in graph.node}
    tables: dict[str, list[str]] = {}
    matrices: dict[str, str] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for table, head in heads.items():
        if is_finite(values := array(known[table])):
            rows, factors = quantize_rows(values, 1, saturates=saturates)
            scales = factors.reshape(-1)  # the product takes no others, and zeros of the same shape
            made = {"int8": rows, "factors": factors, "scales": scales, "zeros": np.zeros(scales.shape, np.int8)}
            tables[table] = [add_weight(graph, f"{table}_{part}", values) for part, values in made.items()]
            matrices[nodes[head].input[1]] = table
    for node, table in _lookups(graph, excluded):
        if table.name in tables:
            replaced[node.name] = _unfolded(node, *tables[table.name][:2])
    found: set[str] = set()
    for node in graph.node:
        tied = matrices.get(node.input[1]) if node.name in products else None
        # Several products may take a matrix, some of them turned.
        if tied is not None and _turns(node) == _turns(nodes[heads[tied]]):
            rows_name, _, *numbers = tables[tied]
            replaced[node.name] = _product(graph, node, [rows_name, *numbers], known[tied].dims[1])
            found.add(node.name)
    replace_nodes(graph, replaced)
    return found


def _unfolded(node: onnx.NodeProto, rows: str, factors: str) -> list[onnx.NodeProto]:
    """Return what looks rows up in an int8 table with a scale for each."""
    make, out, indices = onnx.helper.make_node, node.output[0], node.input[1]
    return [
        make("Gather", [rows, indices], [f"{out}_rows"], name=f"{node.name}_rows", axis=0),
        make("Gather", [factors, indices], [f"{out}_factor"], name=f"{node.name}_factor", axis=0),
        make("Cast", [f"{out}_rows"], [f"{out}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
        make("Mul", [f"{out}_cast", f"{out}_factor"], [out], name=f"{node.name}_unfold"),
    ]


def _product(graph: onnx.GraphProto, node: onnx.NodeProto, table: list[str], width: int) -> list[onnx.NodeProto]:
    """Return what multiplies by an int8 table with rows and columns exchanged, in 8 bits."""
    x, out = node.input[0], node.output[0]
    made: list[onnx.NodeProto] = []

    def then(operator: str, inputs: list[str], *parts: str, domain: str = "", **attributes: Any) -> str:
        outputs = [f"{out}_{part}" for part in parts]
        made.append(onnx.helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    if node.op_type == "MatMul":  # of any axes, and the product in 8 bits takes two
        flat = add_weight(graph, f"{out}_flat_shape", np.array([-1, width], np.int64))
        first, last = (add_weight(graph, f"{out}_axis", np.array([n], np.int64)) for n in (0, -1))
        outer = then("Slice", [then("Shape", [x], "sizes"), first, last], "outer")
        shape = then("Concat", [outer, last], "shape", axis=0)
        x = then("Reshape", [x, flat], "flat")
    then("DynamicQuantizeLinear", [x], "levels", "scale", "zero")
    levels = [f"{out}_{part}" for part in ("levels", "scale", "zero")]
    product = then("QGemm", [*levels, *table], "product", domain=CONTRIB, transB=1)
    if node.op_type == "MatMul":
        product = then("Reshape", [product, shape], "whole")
    if len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - the bias of a Gemm
        product = then("Add", [product, node.input[2]], "sum")
    made[-1].output[0] = out
    return made


def tied_heads(graph: onnx.GraphProto, products: Sequence[str], excluded: set[str]) -> dict[str, str]:
    """Return the products whose matrices are tables of embeddings, turned, by the names of the tables.

    A language model often has one matrix for both. An exported graph shares it if the product turns it by itself, and
    has a turned copy otherwise.
    """
    known, chosen = weights(graph), set(products)
    tables = {table.name: table for _, table in _lookups(graph, excluded)}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.name not in chosen:
            continue
        weight = known[node.input[1]]
        if _turns(node):
            same = (name for name in tables if name == weight.name)
        else:
            same = (name for name, table in tables.items() if _is_turned(table, weight))
        for name in same:
            found.setdefault(name, node.name)
    return found


def look_up_blocks(graph: onnx.GraphProto, heads: Mapping[str, onnx.NodeProto], excluded: set[str]) -> None:
    """Let lookups in tables read the blocks of the products that they are tied to, in place.

    The operator wants scales of as many axes as the blocks have, and the product does not take such. So there are two
    copies of the scales.

    Parameters
    ----------
    heads
        The products in blocks, by the names of the tables.
    excluded
        Nodes that stay as they are.
    """
    known = weights(graph)
    made: dict[str, tuple[str, str]] = {}
    replaced: dict[str, Iterable[onnx.NodeProto]] = {}
    for node, table in _lookups(graph, excluded):
        head = heads.get(table.name)
        if head is None:
            continue
        sizes = {a.name: a.i for a in head.attribute}
        if table.name not in made:
            scales = array(known[head.input[2]])
            width = np.array([sizes["K"]], np.int64)
            made[table.name] = (
                add_weight(graph, f"{head.input[2]}_rows", scales.reshape(sizes["N"], -1, 1)),
                add_weight(graph, f"{table.name}_width", width),
            )
        scales_name, width_name = made[table.name]
        out, indices = node.output[0], node.input[1]
        make = onnx.helper.make_node
        replaced[node.name] = [
            make(
                "GatherBlockQuantized",
                [head.input[1], indices, scales_name],
                [f"{out}_blocks"],
                name=f"{node.name}_blocks",
                domain=CONTRIB,
                gather_axis=0,
                quantize_axis=2,
                block_size=sizes["block_size"],
                bits=sizes["bits"],
            ),
            make("Shape", [indices], [f"{out}_shape"], name=f"{node.name}_shape"),
            make("Concat", [f"{out}_shape", width_name], [f"{out}_joined"], name=f"{node.name}_joined", axis=0),
            make("Reshape", [f"{out}_blocks", f"{out}_joined"], [out], name=f"{node.name}_reshape"),
        ]
    replace_nodes(graph, replaced)


def _lookups(graph: onnx.GraphProto, excluded: set[str]) -> Iterator[tuple[onnx.NodeProto, TensorProto]]:
    """Yield the nodes that look rows up in large float tables, and the tables."""
    known = weights(graph)
    for node in graph.node:
        table = known.get(node.input[0]) if node.op_type == "Gather" and node.name not in excluded else None
        if table is None or not is_matrix(table) or table.dims[0] < MIN_ROWS or _axis(node) not in (0, -2):
            continue
        if node.input[1] not in known:  # otherwise it is folded when the model is loaded, and stays small
            yield node, table


def _is_turned(table: TensorProto, weight: TensorProto) -> bool:
    """Tell whether a matrix is a table with rows and columns exchanged."""
    if [*weight.dims] != [*reversed(table.dims)]:
        return False
    rows: Array = array(table)
    columns: Array = array(weight)
    parts = range(0, len(rows), _PART)
    return all(np.array_equal(rows[at : at + _PART], columns[:, at : at + _PART].T) for at in parts)


def _turns(product: onnx.NodeProto) -> bool:
    """Tell whether a product takes its matrix turned."""
    return any(a.name == "transB" and a.i for a in product.attribute)


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 0)
