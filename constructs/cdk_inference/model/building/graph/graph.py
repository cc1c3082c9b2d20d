"""Makes an ONNX graph reproducible and ready to quantize."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, TensorProto
from onnx.version_converter import convert_version

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph import aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

OPSETS = (18, 17, 13)
"""Opsets that old graphs are converted to, best first; below 13, weights cannot be quantized per channel."""

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators: they run on every CPU that it supports."""

BATCH_WIDE = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"))
"""Operators that take one scale from all that they are given."""

_FOLDED_GROWTH = 1.2  # folding that grows a file by more unfolds constants (Expand, Tile, Range) rather than joins them
_FOLDED_SLACK = 1 << 20


def fuse(model: onnx.ModelProto, work: Path) -> onnx.ModelProto:
    """Fold constants and fuse batch norm and padding into convolutions, with standard operators only.

    Graphs of old operator sets are converted first, if onnx can convert them. Works in place: copies of weights that
    take gigabytes would count.

    Parameters
    ----------
    work
        A folder for files that onnxruntime reads and writes. It must exist as long as the graph, if that is large.

    Raises
    ------
    ModelBuildError
        If onnxruntime cannot load the model.
    """
    _make_constant(model)
    failure: Exception | None = None
    for graph in _upgraded(model):
        try:
            fused = _optimized(graph, work)
            if aside.total_size(fused) > aside.total_size(graph) * _FOLDED_GROWTH + _FOLDED_SLACK:
                fused = _optimized(graph, work, disabled=["ConstantFolding"])
        except Exception as error:
            failure = error
        else:
            _simplify_gemms(fused.graph)
            return fused
    raise ModelBuildError(f"onnxruntime {ort.__version__} cannot load the model: {failure}") from failure


def _make_constant(model: onnx.ModelProto) -> None:
    """Let no weight be an input with a default value, as such weights cannot be folded."""
    weights = {w.name for w in model.graph.initializer}
    weights.update(w.values.name for w in model.graph.sparse_initializer)
    inputs = [v for v in model.graph.input if v.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 8)


def _upgraded(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield the model in the newest operator set that onnx can convert it to, and last as it is."""
    version = opset(model)
    if version < min(OPSETS[:2]) and not aside.is_aside(model):  # the converter would lose where weights lie
        for target in OPSETS:
            if target <= version:
                break
            try:
                converted = convert_version(model, target)
            except Exception:  # noqa: S112 - it has no adapter, or the graph has operators of other domains
                continue
            yield converted
            break
    yield model


def _optimized(model: onnx.ModelProto, work: Path, disabled: list[str] | None = None) -> onnx.ModelProto:
    options = ort.SessionOptions()
    if aside.is_aside(model):
        source, target = aside.link(model, work / "unfused"), work / "fused.onnx"
        aside.keep_aside(options, "fused.weights")
    else:
        source, target = work / "unfused.onnx", work / "fused.onnx"
        # From a file, onnxruntime keeps no second copy of the bytes.
        source.write_bytes(model.SerializeToString())
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong comes as an error too
    try:
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    finally:
        source.unlink()
    fused = aside.load(target)
    target.unlink()
    return fused


def _simplify_gemms(graph: onnx.GraphProto) -> None:
    """Fold what a Gemm multiplies its weights by into them, and make its bias one row: quantizers take no other."""
    known = weights(graph)
    changed = False
    for node in graph.node:
        weight = known.get(node.input[1]) if node.op_type == "Gemm" and node.domain in ("", "ai.onnx") else None
        if weight is None or weight.data_type != TensorProto.FLOAT:
            continue
        factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta") and a.f != 1.0}
        bias = known.get(node.input[2]) if len(node.input) > 2 else None  # noqa: PLR2004 - A, B, C
        if "alpha" in factors:
            scaled = np.multiply(array(weight), np.float32(factors["alpha"]))
            node.input[1] = add_weight(graph, f"{weight.name}_scaled", scaled)
            _drop_attribute(node, "alpha")
            changed = True
        if bias is None:
            continue
        values = np.multiply(array(bias), np.float32(factors.get("beta", 1.0)))
        columns = weight.dims[0 if any(a.name == "transB" and a.i for a in node.attribute) else 1]
        if all(size == 1 for size in values.shape[:-1]):
            values = np.broadcast_to(values.reshape(-1), (columns,))
        if "beta" in factors or values.shape != tuple(bias.dims):
            node.input[2] = add_weight(graph, f"{bias.name}_row", values)
            _drop_attribute(node, "beta")
            changed = True
    if changed:
        replace_nodes(graph, {})


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    others = [AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(others)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what differs between folders, runs and releases of tools: source paths, doc strings, names.

    Intermediate values, weights and nodes are numbered in graph order, through control flow too; the model's inputs
    and outputs keep their names. Works in place.
    """
    for graph in _graphs(model.graph):
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        graph.name = "model" if graph is model.graph else "body"
        del graph.value_info[:]
        del graph.quantization_annotation[:]
    for field in ("doc_string", "metadata_props", "producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    del model.training_info[:]
    used = {"", *(n.domain for g in _graphs(model.graph) for n in g.node)}
    used.update(n.domain for f in model.functions for n in f.node)
    versions = {o.domain: o.version for o in model.opset_import if o.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(versions.items()))
    _Numbering(model.graph)
    return model


class _Numbering:
    """Gives nodes, weights and intermediate values names that follow from the graph's structure alone."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes, self._weights, self._inner = count(), count(), count()
        fixed = {v.name for v in (*graph.input, *graph.output)}
        self._taken = fixed
        self._number(graph, {name: name for name in fixed} | {"": ""})

    def _fresh(self, name: str) -> str:
        """Return the name, or a longer one if an input or output of the model has it."""
        while name in self._taken:
            name += "_"
        return name

    def _number(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        """Rename in place; `names` holds what is visible, and gets what the graph adds."""
        weights = {w.name: w for w in graph.initializer}
        sparse = {w.values.name: w for w in graph.sparse_initializer}
        order: list[str] = [w for w in (*weights, *sparse) if w in names and w]
        for node in graph.node:
            index = next(self._nodes)
            node.name = f"{node.op_type}_{index}"
            visible = [*node.input, *(n for g in bodies(node) for n in captured(g))]
            for name in visible:
                if name not in names and (name in weights or name in sparse):
                    names[name] = self._fresh(f"w{next(self._weights)}")
                    order.append(name)
            for inner in bodies(node):
                self._number_inner(inner, dict(names))
            for position, name in enumerate(node.output):
                if name not in names:
                    names[name] = self._fresh(f"v{index}_{position}")
            node.input[:] = [names[n] for n in node.input]
            node.output[:] = [names[n] for n in node.output]
        for value in graph.output:
            if value.name not in names and (value.name in weights or value.name in sparse):
                names[value.name] = self._fresh(f"w{next(self._weights)}")
                order.append(value.name)
        dense = [_renamed(weights[n], names[n]) for n in order if n in weights]
        scattered = [sparse[n] for n in order if n in sparse]
        for weight in scattered:
            weight.values.name = names[weight.values.name]
        copies = [onnx.SparseTensorProto.FromString(w.SerializeToString()) for w in scattered]
        del graph.initializer[:]
        graph.initializer.extend(dense)
        del graph.sparse_initializer[:]
        graph.sparse_initializer.extend(copies)

    def _number_inner(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        for value in graph.input:
            names[value.name] = self._fresh(f"i{next(self._inner)}")
            value.name = names[value.name]
        # The outputs of a body may be made in it, or come from outside.
        self._number(graph, names)
        for value in graph.output:
            if value.name in names:
                value.name = names[value.name]


def _renamed(weight: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(weight)
    copy.name = name
    return copy


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the bytes to ship."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def use_contrib(model: onnx.ModelProto) -> None:
    """Declare that the model has operators of onnxruntime's own."""
    if not any(o.domain == CONTRIB for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes, those in the bodies of control flow and in functions too."""
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def rounds(model: onnx.ModelProto) -> bool:
    """Tell whether a model rounds activations to 8 bits."""
    return any(n.op_type == "QuantizeLinear" or n.op_type in BATCH_WIDE for n in all_nodes(model))


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that take each value, themselves or in a body of theirs."""
    return {name: [graph.node[i] for i in users] for name, users in _takers(graph).items()}


def weights(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Return the weights by name."""
    return {w.name: w for w in graph.initializer}


def constants(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the weights, and of what is computed from them alone."""
    found = {"", *weights(graph)}
    for node in graph.node:
        if node.input and not bodies(node) and found.issuperset(node.input):
            found.update(node.output)
    return found


def array(weight: TensorProto) -> Array:
    """Return a weight's values."""
    return aside.values(weight)


def add_weight(graph: onnx.GraphProto, name: str, values: Array) -> str:
    """Add a weight under a name that is free, and return the name."""
    taken = {w.name for w in graph.initializer}
    while name in taken:
        name += "_"
    graph.initializer.append(aside.stored(values, name))
    return name


def replace_nodes(graph: onnx.GraphProto, replaced: Mapping[str, Iterable[onnx.NodeProto]]) -> None:
    """Put other nodes, or none, in the place of those named, and drop the weights that nothing takes any more."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(replaced.get(node.name, (node,)))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {*consumers(graph), *(v.name for v in graph.output)}
    for weight in [w for w in graph.initializer if w.name not in used]:
        graph.initializer.remove(weight)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node after those that make its inputs, in nested graphs too, and otherwise keep their order."""
    made = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs: dict[int, set[int]] = {}
    for name, users in _takers(graph).items():
        if name in made:
            for user in users:
                needs.setdefault(user, set()).add(made[name])
    feeds: dict[int, list[int]] = {}
    for user, sources in needs.items():
        for source in sources:
            feeds.setdefault(source, []).append(user)
    ready = [i for i in range(len(graph.node)) if i not in needs]
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for user in feeds.get(order[-1], ()):
            needs[user].discard(order[-1])
            if not needs[user]:
                heappush(ready, user)
    if len(order) != len(graph.node):
        raise ModelBuildError("the graph must have no cycle; export the model again")
    copies = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(copies)


def _takers(graph: onnx.GraphProto) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in dict.fromkeys((*node.input, *(n for g in bodies(node) for n in captured(g)))):
            if name:
                found.setdefault(name, []).append(index)
    return found


def captured(graph: onnx.GraphProto) -> list[str]:
    """Return the names that a body takes from outside, in order."""
    own = {v.name for v in graph.input} | {w.name for w in graph.initializer}
    own |= {w.values.name for w in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    wanted = [n for node in graph.node for n in (*node.input, *(c for g in bodies(node) for c in captured(g)))]
    wanted += [v.name for v in graph.output]
    return list(dict.fromkeys(n for n in wanted if n and n not in own))


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs within a node of control flow."""
    found = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in bodies(node):
            yield from _graphs(inner)
