"""Lets a decoder end in the likeliest next tokens, so that no step hands its whole vocabulary to the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from cdk_inference.model.building.graph.graph import add_weight
from cdk_inference.model.recipe.drivers import NEXT_SCORES, NEXT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.evaluation.metrics import Array

_OF_STEPS = 3  # axes of logits for several steps


def append_ranking(model: onnx.ModelProto, logits: str, places: int, never: Sequence[int]) -> None:
    """Replace the logits of a graph by the best tokens of the last step and their logarithms, in place.

    Parameters
    ----------
    model
        The graph.
    logits
        The name of an output with the vocabulary on its last axis.
    places
        How many tokens.
    never
        Tokens that are not chosen.
    """
    graph = model.graph
    output = next(value for value in graph.output if value.name == logits)
    kind, dims = output.type.tensor_type.elem_type, output.type.tensor_type.shape.dim
    batch, vocabulary = dims[0].dim_param, dims[-1].dim_value
    nodes, current = [], logits

    def then(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal current
        made = f"ranked_{operator}"
        nodes.append(helper.make_node(operator, [current, *more], [made], name=made, **attributes))
        current = made

    if len(dims) == _OF_STEPS:
        then("Gather", add_weight(graph, "ranked_last", np.array(-1, np.int64)), axis=1)
    if kind != TensorProto.FLOAT:
        then("Cast", to=TensorProto.FLOAT)
    if never:
        mask = np.zeros(vocabulary, np.float32)
        mask[list(never)] = -np.inf
        then("Add", add_weight(graph, "ranked_never", mask))
    then("LogSoftmax", axis=-1)
    best = add_weight(graph, "ranked_places", np.array([places], np.int64))
    nodes.append(helper.make_node("TopK", [current, best], [NEXT_SCORES, NEXT_TOKENS], name="ranked_TopK"))
    graph.node.extend(nodes)
    others = [value for value in graph.output if value.name != logits]
    del graph.output[:]
    for name, element in ((NEXT_SCORES, TensorProto.FLOAT), (NEXT_TOKENS, TensorProto.INT64)):
        graph.output.append(helper.make_tensor_value_info(name, element, [batch, places]))
    graph.output.extend(others)


def rank(logits: Array, places: int, never: Sequence[int]) -> tuple[Array, Array]:
    """Return what a graph with `append_ranking` gives, computed from its logits: scores and tokens."""
    last = logits[:, -1] if logits.ndim == _OF_STEPS else logits
    values = last.astype(np.float32).copy()
    values[:, list(never)] = -np.inf
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    order = np.argsort(-values, axis=1, kind="stable")[:, :places]
    return np.take_along_axis(values, order, axis=1), order.astype(np.int64)
