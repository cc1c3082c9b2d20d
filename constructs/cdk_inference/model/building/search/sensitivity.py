"""Finds the nodes that quantization harms most, for models in which a few of them stay more exact."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.graph.graph import consumers, producers, weights
from cdk_inference.model.building.graph.stored import STORED
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.quantization.selection import named, products
from cdk_inference.model.building.quantization.static import ACTIVATIONS, CONVOLUTIONS, OPERATORS
from cdk_inference.model.recipe.precision import DynamicInt8, Float32, StaticInt8, WeightOnly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime as ort

    from cdk_inference.model.recipe.precision import GraphPrecision

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    Batch = Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
    Ranges = Mapping[str, tuple[float, float]]

SAMPLES = 6
SECONDS = 15.0
"""After this time, what is not measured yet is ranked by its own error instead of its effect on the outputs."""

_CALCULATING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Sigmoid", "LeakyRelu")


@dataclass
class _Probe:
    """A node on its own in the other precision."""

    node: str
    output: str
    inputs: tuple[str, ...]
    session: ort.InferenceSession
    own: float = 0.0
    effect: float = 0.0
    measured: bool = False


def sensitivity(
    model: onnx.ModelProto,
    precision: GraphPrecision,
    ranges: Ranges | None,
    batches: Sequence[Batch],
    target: str = "arm64",
) -> list[str]:
    """Return the nodes that a precision changes, the most harmful first.

    Each node is computed in the precision with its inputs in the float model. Its error is put into the float model,
    whose outputs tell the harm. About `SECONDS` at most.

    Parameters
    ----------
    model
        The float model, fused and cleaned.
    batches
        Evaluation data, of which the first samples are used.
    target
        Architecture of the functions; see `convert`.
    """
    start = time.monotonic()
    probes = _probes(model, precision, ranges, target)
    if not probes:
        return []
    floats, disturbed = _observed(model, probes), _disturbed(model, probes)
    names = [o.name for o in floats.get_outputs()]
    outputs = [o.name for o in disturbed.get_outputs() if o.type in ("tensor(float)", "tensor(double)")]
    silent = {_delta(p): np.zeros((), np.float32) for p in probes}
    for sample in _samples(floats, batches):
        values = dict(zip(names, floats.run(names, dict(sample)), strict=True))
        expected = [np.asarray(values[n], np.float64) for n in outputs]
        errors = {p.node: _error(p, values) for p in probes}
        for probe in sorted(probes, key=lambda p: -p.own):
            if probe.measured and time.monotonic() - start > SECONDS:
                continue
            if not probe.measured and time.monotonic() - start > SECONDS:
                break
            disturbance = {_delta(probe): errors[probe.node]}
            found = disturbed.run(outputs, {**sample, **silent, **disturbance})
            probe.effect += sum(_relative(e, f) for e, f in zip(expected, found, strict=True))
            probe.measured = True
        if time.monotonic() - start > SECONDS:
            break
    probes.sort(key=lambda p: (-int(p.measured), -p.effect, -p.own))
    return [p.node for p in probes]


def soften(model: onnx.ModelProto, precision: GraphPrecision, nodes: Sequence[str]) -> GraphPrecision:
    """Return the precision with some nodes more exact.

    Matrix products of dynamic int8 become weight-only, which keeps their size. All other nodes become float. With
    static int8, so do the nodes before them, which would round their results to 8 bits otherwise.
    """
    if isinstance(precision, DynamicInt8):
        matrices = set(products(model.graph))
        blocks = [n for n in nodes if n in matrices and n not in precision.weight_only]
        floats = [n for n in nodes if n not in blocks]
        kept = set(floats)
        return DynamicInt8(
            (*precision.keep_float, *floats), (*(n for n in precision.weight_only if n not in kept), *blocks)
        )
    if isinstance(precision, Float32):
        return precision
    if isinstance(precision, StaticInt8):
        nodes = [*nodes, *_sources(model.graph, nodes, (*nodes, *precision.keep_float))]
    return replace(precision, keep_float=(*precision.keep_float, *nodes))


def _sources(graph: onnx.GraphProto, nodes: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Return the products and convolutions that give the nodes their input, through activations alone."""
    made = producers(graph)
    by_name = {n.name: n for n in graph.node}
    found: dict[str, None] = {}
    for name in nodes:
        source = made.get(by_name[name].input[0]) if name in by_name else None
        while source is not None and source.op_type in ACTIVATIONS:
            source = made.get(source.input[0])
        if source is not None and source.op_type in (*CONVOLUTIONS, "Gemm", "MatMul") and source.name not in kept:
            found[source.name] = None
    return list(found)


def _probes(model: onnx.ModelProto, precision: GraphPrecision, ranges: Ranges | None, target: str) -> list[_Probe]:
    graph = model.graph
    made, taken, known = producers(graph), consumers(graph), weights(graph)
    kept = named(graph, getattr(precision, "keep_float", ()), "keep_float")
    dynamic = named(graph, precision.dynamic, "dynamic") if isinstance(precision, StaticInt8) else set()
    blocks = named(graph, precision.weight_only, "weight_only") if isinstance(precision, DynamicInt8) else set()
    found = []
    for node in graph.node:
        if node.name in kept or len(node.output) != 1 or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type not in {*_CALCULATING, *STORED} or (
            node.op_type not in OPERATORS and node.op_type not in STORED
        ):
            continue
        members = [node]
        before = made.get(node.input[0])
        if before is not None and before.op_type == "LayerNormalization" and len(taken[node.input[0]]) <= 2:  # noqa: PLR2004
            members.insert(0, before)  # dynamic int8 smooths what layer norms give
        inputs = tuple(
            dict.fromkeys(n for m in members for n in m.input if n and n not in known and n not in _made(members))
        )
        if node.name in dynamic or isinstance(precision, DynamicInt8):
            single: GraphPrecision = DynamicInt8((), (node.name,) if node.name in blocks else ())
        elif isinstance(precision, StaticInt8):
            single = StaticInt8(precision.method, precision.percentile)
        else:
            single = replace(precision, keep_float=()) if isinstance(precision, WeightOnly) else precision
        try:
            small = convert(_alone(model, members, inputs), single, ranges, target)
        except ModelBuildError:
            continue  # it stays float in the whole model too
        session = open_session(small.SerializeToString())
        found.append(_Probe(node.name, node.output[0], inputs, session))
    return found


def _made(members: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in members for name in node.output}


def _alone(model: onnx.ModelProto, members: Sequence[onnx.NodeProto], inputs: Sequence[str]) -> onnx.ModelProto:
    """Return a model of a few nodes."""
    known = weights(model.graph)
    used = dict.fromkeys(n for m in members for n in m.input if n in known)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(members),
        "alone",
        [value(n, TensorProto.FLOAT, None) for n in inputs],
        [value(members[-1].output[0], TensorProto.FLOAT, None)],
        [known[n] for n in used],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _observed(model: onnx.ModelProto, probes: Sequence[_Probe]) -> ort.InferenceSession:
    """Return a session of the float model that gives what the probes take and make too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {v.name for v in copy.graph.output}
    wanted = dict.fromkeys(n for p in probes for n in (*p.inputs, p.output) if n not in present)
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted)
    return open_session(copy.SerializeToString())


def _disturbed(model: onnx.ModelProto, probes: Sequence[_Probe]) -> ort.InferenceSession:
    """Return a session of the float model in which an input is added to what each probed node gives."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    by_name = {p.node: p for p in probes}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        if (probe := by_name.get(node.name)) is not None:
            node.output[0] = f"{probe.output}/exact"
            nodes.append(onnx.helper.make_node("Add", [node.output[0], _delta(probe)], [probe.output]))
            copy.graph.input.append(onnx.helper.make_tensor_value_info(_delta(probe), TensorProto.FLOAT, None))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(copies)
    return open_session(copy.SerializeToString())


def _delta(probe: _Probe) -> str:
    return f"{probe.output}/error"


def _error(probe: _Probe, values: Mapping[str, Array]) -> Array:
    """Return what the node gives in the precision, less what it gives in float."""
    name = probe.session.get_outputs()[0].name
    inputs = {i.name: values[i.name] for i in probe.session.get_inputs()}
    found: Array = probe.session.run([name], inputs)[0]
    exact = values[probe.output]
    probe.own += _relative(exact.astype(np.float64), found)
    error: Array = np.nan_to_num((found - exact).astype(np.float32), posinf=0.0, neginf=0.0)
    return error


def _relative(expected: np.ndarray, found: np.ndarray) -> float:
    finite = np.isfinite(expected) & np.isfinite(found)
    squares = float(np.sum(np.square(expected[finite])))
    return float(np.sum(np.square(expected[finite] - found[finite]))) / max(squares, 1e-30)


def _samples(session: ort.InferenceSession, batches: Sequence[Batch]) -> list[Batch]:
    """Return a few samples from different batches, one at a time if the model takes that."""
    symbols = {v.shape[0] if v.shape else None for v in session.get_inputs()}
    single = all(isinstance(s, str) or s == 1 for s in symbols)
    chosen = [batches[i] for i in np.unique(np.linspace(0, len(batches) - 1, SAMPLES).astype(int))] if batches else []
    found: list[Batch] = []
    for turn in range(SAMPLES if single else 1):
        for batch in chosen:
            sizes = {len(a) if a.ndim else 0 for a in batch.values()}
            if single and len(sizes) == 1 and turn < min(sizes):
                found.append({n: a[turn : turn + 1] for n, a in batch.items()})
            elif turn == 0:
                found.append(batch)
    return found[:SAMPLES]
