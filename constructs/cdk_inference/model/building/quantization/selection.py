"""Which nodes a precision is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import weights

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_WEIGHTS = 2048
"""Matrices of fewer weights stay float: quantizing their input takes longer than the product."""

_EXAMPLES = 5


def named(graph: onnx.GraphProto, names: Iterable[str], field: str) -> set[str]:
    """Return the names of the nodes that are named, by themselves or by their operator.

    Raises
    ------
    ModelBuildError
        If a name is neither.
    """
    found: set[str] = set()
    for name in names:
        nodes = {n.name for n in graph.node if name in (n.name, n.op_type)}
        if not nodes:
            known = ", ".join(sorted({n.op_type for n in graph.node})[:_EXAMPLES])
            raise ModelBuildError(
                f"precision field '{field}' must name nodes or operators of the model, got '{name}'; "
                f"operators are {known}, ...; nodes are named like '{graph.node[0].name if graph.node else ''}'"
            )
        found |= nodes
    return found


def products(graph: onnx.GraphProto, excluded: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Return the names of the products with a constant float matrix that are worth quantizing, in order."""
    known = weights(graph)
    found = []
    for node in graph.node:
        if node.name in excluded or node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            continue
        weight = known.get(node.input[1]) if is_plain(node) else None
        if weight is not None and is_matrix(weight) and weight.dims[0] * weight.dims[1] >= MIN_WEIGHTS:
            found.append(node.name)
    return found


def is_plain(product: onnx.NodeProto) -> bool:
    """Tell whether a product neither scales nor turns what it takes: the quantizers know no other."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in product.attribute}
    scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
    return not scaled and not attributes.get("transA", 0)


def is_matrix(weight: TensorProto) -> bool:
    """Tell whether a weight is a float matrix."""
    return len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT  # noqa: PLR2004
