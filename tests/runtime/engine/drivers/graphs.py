"""Hand-made graphs of an encoder and a decoder, and what they compute, written out in NumPy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY, SIZE = 7, 8
START, END = 1, 2

_random = np.random.default_rng(0)  # of those tried, the one whose sequences differ most in length
EMBEDDING = _random.normal(0, 1.0, (VOCABULARY, SIZE)).astype(np.float32)
QUERY = _random.normal(0, 0.5, (SIZE, SIZE)).astype(np.float32)
HEAD = _random.normal(0, 0.8, (SIZE, VOCABULARY)).astype(np.float32)
ENCODER = _random.normal(0, 0.35, (3, SIZE)).astype(np.float32)


def encoder() -> onnx.ModelProto:
    """`source` [batch, 3] to `memory` [batch, 8], by a product."""
    return _model(
        [helper.make_node("MatMul", ["source", "w"], ["memory"])],
        {"w": ENCODER},
        [("source", TensorProto.FLOAT, ["batch", 3])],
        [("memory", TensorProto.FLOAT, ["batch", SIZE])],
    )


def decoder(
    *,
    cached: bool,
    places: int | None,
    memory: str = "memory",
    steps: str | int = "steps",
    placed: bool = False,
    masked: bool = False,
) -> onnx.ModelProto:
    """The likeliest `places` next tokens: the last token attends to all, with the memory added.

    Parameters
    ----------
    places
        None for the `logits` instead, as a model has them before it is built.
    placed
        Whether `place` comes too, and is added to the logit of the end.
    masked
        Whether `mask` comes too, which is 0 for tokens that do not count, and `place` has each of the new tokens.
    cached
        Whether what was embedded before comes as `past` and goes as `present`, or all `tokens` come each time.
    """
    known = "present" if cached else "embedded"
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"]),
        *([helper.make_node("Concat", ["past", "embedded"], ["present"], axis=1)] if cached else []),
        helper.make_node("Gather", ["embedded", "last"], ["query_token"], axis=1),
        helper.make_node("MatMul", ["query_token", "query"], ["asked"]),
        helper.make_node("Transpose", [known], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["asked", "keys"], ["likeness"]),
        helper.make_node("Softmax", ["likeness"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", known], ["heard"]),
        helper.make_node("Squeeze", ["heard", "axis"], ["context"]),
        helper.make_node("Add", ["context", memory], ["both"]),
        head := helper.make_node("MatMul", ["both", "head"], ["logits"]),
    ]
    if places is not None:
        nodes += [
            helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=-1),
            helper.make_node("TopK", ["scores", "places"], ["next_scores", "next_tokens"]),
        ]
    weights = {
        "embedding": EMBEDDING,
        "query": QUERY,
        "head": HEAD,
        "last": np.array([-1], np.int64),
        "axis": np.array([1], np.int64),
        "places": np.array([places or 0], np.int64),
    }
    inputs: list[tuple[str, int, list[str | int]]] = [
        ("tokens", TensorProto.INT64, ["batch", steps]),
        (memory, TensorProto.FLOAT, ["batch", SIZE]),
    ]
    outputs: list[tuple[str, int, list[str | int]]] = [("logits", TensorProto.FLOAT, ["batch", VOCABULARY])]
    if places is not None:
        outputs = [
            ("next_scores", TensorProto.FLOAT, ["batch", places]),
            ("next_tokens", TensorProto.INT64, ["batch", places]),
        ]
    if placed:
        nodes[nodes.index(head)].output[0] = "unplaced"
        nodes[nodes.index(head) + 1 : nodes.index(head) + 1] = [
            helper.make_node("Cast", ["place"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["number", "axis"], ["column"]),
            helper.make_node("Mul", ["column", "of_end"], ["nearer"]),
            helper.make_node("Add", ["unplaced", "nearer"], ["logits"]),
        ]
        weights["of_end"] = np.eye(VOCABULARY, dtype=np.float32)[END]
        inputs.append(("place", TensorProto.INT64, ["batch", steps] if masked else ["batch"]))
    if masked:
        likeness = next(node for node in nodes if node.output[0] == "likeness")
        likeness.output[0] = "all_likeness"
        nodes[nodes.index(likeness) + 1 : nodes.index(likeness) + 1] = [
            helper.make_node("Cast", ["mask"], ["counts"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["counts", "one"], ["hidden"]),
            helper.make_node("Mul", ["hidden", "very"], ["far"]),
            helper.make_node("Unsqueeze", ["far", "axis"], ["far_rows"]),
            helper.make_node("Add", ["all_likeness", "far_rows"], ["likeness"]),
        ]
        placing = next(node for node in nodes if node.output[0] == "column")
        placing.op_type, placing.input[:] = "Gather", ["number", "last"]
        placing.attribute.append(helper.make_attribute("axis", 1))
        weights |= {"one": np.float32(1), "very": np.float32(1e9)}
        inputs.append(("mask", TensorProto.INT64, ["batch", "all"]))
    if cached:
        inputs.append(("past", TensorProto.FLOAT, ["batch", "before", SIZE]))
        outputs.append(("present", TensorProto.FLOAT, ["batch", "after", SIZE]))
    return _model(nodes, weights, inputs, outputs)


def adder() -> onnx.ModelProto:
    """Adds each window's `sound` [batch, places] to a `state` [batch, 1]: the `total` so far, and what was `heard`."""
    nodes = [
        helper.make_node("ReduceSum", ["sound", "axis"], ["sum"], keepdims=1),
        helper.make_node("Add", ["state", "sum"], ["state_out"]),
        helper.make_node("Identity", ["state_out"], ["total"]),
        helper.make_node("Identity", ["sound"], ["heard"]),
    ]
    return _model(
        nodes,
        {"axis": np.array([1], np.int64)},
        [("sound", TensorProto.FLOAT, ["batch", "places"]), ("state", TensorProto.FLOAT, ["batch", 1])],
        [
            ("state_out", TensorProto.FLOAT, ["batch", 1]),
            ("total", TensorProto.FLOAT, ["batch", 1]),
            ("heard", TensorProto.FLOAT, ["batch", "places"]),
        ],
    )


def logarithms(source: np.ndarray, tokens: list[int], prompt: list[int] | None = None) -> np.ndarray:
    """Return the logarithms of the probabilities of the next token after a start and tokens, for one item.

    After a prompt in place of the start, the place of the newest token is added to the logit of the end.
    """
    known = [*(prompt or [START]), *tokens]
    embedded = EMBEDDING[known].astype(np.float64)
    likeness = embedded[-1] @ QUERY @ embedded.T
    attention = np.exp(likeness - likeness.max())
    logits = (attention / attention.sum() @ embedded + source @ ENCODER) @ HEAD
    if prompt is not None:
        logits[END] += len(known) - 1
    return np.asarray(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())


def description(**changes: Any) -> dict[str, Any]:
    """Return what `driver.json` says of a greedy search over encoder and decoder, with changes."""
    return {
        "kind": "search",
        "graphs": [{"name": "encoder", "reads": {}}, {"name": "decoder", "reads": {}}],
        "states": {},
        "start": [START],
        "end": END,
        "max_steps": 12,
        "min_steps": 0,
        "width": 1,
        "length_penalty": 0.0,
        "tokens": "tokens",
        "whole_prefix": True,
        "position": None,
        "outputs": ["tokens", "lengths", "scores"],
        **changes,
    }


def write(folder: Path, driver: dict[str, Any], graphs: dict[str, onnx.ModelProto]) -> None:
    """Write a model of several graphs as it is deployed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "driver.json").write_text(json.dumps(driver))
    for name, graph in graphs.items():
        onnx.save(graph, folder / f"{name}.onnx")


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: list[tuple[str, Any, Any]],
    outputs: list[tuple[str, Any, Any]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
