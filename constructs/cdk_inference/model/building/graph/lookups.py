"""Finds the nodes around a node of a graph, to recognize how an exporter spells something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import array, consumers, producers, weights

if TYPE_CHECKING:
    from collections.abc import Mapping


class Lookups:
    """Looks up what makes and takes the values of a graph, as it was when this began.

    Attributes
    ----------
    graph
        The graph.
    users
        The nodes that take each value.
    known
        The weights by name.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.users: Mapping[str, list[onnx.NodeProto]] = consumers(graph)
        self.known = weights(graph)
        self._made = producers(graph)
        self._outputs = {value.name for value in graph.output}

    def maker(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """Return the node that makes a value, if it is of one of these operators."""
        node = self._made.get(name)
        return node if node is not None and node.op_type in operators and node.domain in ("", "ai.onnx") else None

    def user(self, node: onnx.NodeProto | None, operator: str) -> onnx.NodeProto | None:
        """Return the only node that takes what a node makes, if it is of this operator."""
        users = [] if node is None or node.output[0] in self._outputs else self.users.get(node.output[0], [])
        return users[0] if len(users) == 1 and users[0].op_type == operator else None

    def numbers(self, name: str = "") -> list[int]:
        """Return the values of a weight of whole numbers; none if it is not one."""
        weight = self.known.get(name)
        if weight is None or weight.data_type != TensorProto.INT64:
            return []
        return [int(number) for number in array(weight).reshape(-1)]

    def number(self, name: str) -> float | None:
        """Return a weight that is one number."""
        weight = self.known.get(name)
        return None if weight is None or np.prod(weight.dims) != 1 else float(array(weight).reshape(()))


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401 - whatever attributes are
    """Return the value of an attribute, or what it is if it is left out."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
