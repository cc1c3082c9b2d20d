"""What makes an ONNX graph reproducible and ready to quantize."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort

if TYPE_CHECKING:
    from pathlib import Path


def fuse(model: onnx.ModelProto, work: Path) -> onnx.ModelProto:
    """Fold constants and fuse batch norm and padding into convolutions, with standard operators only."""
    target = work / "fused.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(target)
    target.unlink()
    return fused


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what differs between folders, runs and releases of tools: source paths, doc strings, names.

    Intermediate values, weights and nodes are numbered in graph order; inputs and outputs keep their names.
    """
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    graph.name = "model"
    del graph.value_info[:]
    used = {node.domain for node in graph.node} | {"", *(node.domain for f in model.functions for node in f.node)}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(sorted(kept, key=lambda o: o.domain))
    # Names inside control flow refer to names outside: such graphs keep theirs.
    nested = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
    if not any(attribute.type in nested for node in graph.node for attribute in node.attribute):
        _number(graph)
    onnx.checker.check_model(model)
    return model


def _number(graph: onnx.GraphProto) -> None:
    """Give nodes, weights and intermediate values names that follow from the graph's structure alone."""
    names = {v.name: v.name for v in chain(graph.input, graph.output)} | {"": ""}
    weights = {w.name: w for w in graph.initializer}
    order: list[onnx.TensorProto] = []
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for name in node.input:
            if name not in names:
                names[name] = f"w{len(order)}"
                order.append(weights[name])
        for position, name in enumerate(node.output):
            names.setdefault(name, f"v{index}_{position}")
        node.input[:] = [names[n] for n in node.input]
        node.output[:] = [names[n] for n in node.output]
    ordered = [onnx.TensorProto.FromString(w.SerializeToString()) for w in order]
    for weight in ordered:
        weight.name = names[weight.name]
    del graph.initializer[:]
    graph.initializer.extend(ordered)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes to ship."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data
