"""Optimizations that the build makes, so that no function makes them at each start."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from tests.constructs.model.graphs import Graph

from cdk_inference.model import Evaluation, Float16, Float32, ModelRecipe, OnnxFile, Provenance, TensorSpec
from cdk_inference.model.building.graph.graph import clean, fuse, serialize
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.search import optimize as module
from cdk_inference.model.building.search.optimize import optimize
from cdk_inference.model.recipe.precision import DynamicInt8, StaticInt8, WeightOnly

if TYPE_CHECKING:
    from cdk_inference.model.recipe.precision import Pinned

RECIPE = ModelRecipe(
    name="m",
    source=OnnxFile("m.onnx"),
    inputs=(TensorSpec("x", "float32", ("batch", 3, 16, 16)),),
    outputs=(TensorSpec("y", "float32", ("batch", 10)),),
    precision=Float32(),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
    provenance=Provenance(license="CC0-1.0", origin="random numbers"),
)
BATCH = {"x": np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)}
"""Domains of operators that one kind of CPU has, or that fix how its vector units want weights."""
BLOCKED = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}


def network() -> onnx.ModelProto:
    graph = Graph()
    x = graph.conv(graph.input("x", ("batch", 3, 16, 16)), (3, 32), strides=[2, 2])
    x = graph.conv(x, (32, 64), 1)
    x = graph.add("GlobalAveragePool", x)
    x = graph.add("Flatten", x)
    x = graph.add("MatMul", x, graph.normal(64, 128))
    x = graph.add("Relu", x)
    x = graph.add("MatMul", x, graph.normal(128, 10))
    ends = [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 10))]
    graph.nodes[-1].output[0] = "y"
    made = onnx.helper.make_graph(graph.nodes, "g", graph.inputs, ends, graph.weights)
    opset = [onnx.helper.make_opsetid("", 18)]
    return clean(onnx.helper.make_model(made, opset_imports=opset, ir_version=10))


def made(precision: Pinned) -> bytes:
    ranges = calibrate(network(), "minmax", 100.0, [BATCH]) if isinstance(precision, StaticInt8) else None
    return serialize(clean(convert(network(), precision, ranges)))


def answers(model: bytes) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, BATCH)[0]


@pytest.mark.parametrize(
    ("precision", "fused"),
    [(StaticInt8(), "QLinearConv"), (DynamicInt8(), "MatMulIntegerToFloat"), (WeightOnly(8), "MatMulNBits")],
)
def test_graph_answers_the_same_with_fewer_operators(precision: Pinned, fused: str, tmp_path: Path) -> None:
    before = made(precision)
    after = optimize(before, precision.kind, RECIPE, BATCH, tmp_path)
    graphs = [onnx.load_from_string(model).graph.node for model in (before, after)]
    assert len(graphs[1]) <= len(graphs[0])
    kinds = {node.op_type for node in graphs[1]}
    assert fused in kinds or {"DynamicQuantizeMatMul"} & kinds
    np.testing.assert_array_equal(answers(after), answers(before))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", [WeightOnly(8), DynamicInt8()])
def test_weights_stored_in_8_bits_ship_in_8_bits(precision: Pinned, tmp_path: Path) -> None:
    graph = Graph()
    x = graph.conv(graph.input("x", ("batch", 3, 16, 16)), (3, 32))
    x = graph.add("Flatten", graph.add("GlobalAveragePool", graph.conv(x, (32, 64))))
    recurrent = [graph.normal(1, 3 * 64, size, scale=0.1) for size in (64, 64)]
    x = graph.add("Unsqueeze", x, graph.weight([0]))
    x = graph.add("GRU", x, *recurrent, graph.normal(1, 6 * 64, scale=0.1), hidden_size=64)
    x = graph.add("Reshape", x, graph.weight([-1, 64]))
    model = clean(fuse(graph.model(y=graph.linear(x, 64, 10)), tmp_path))
    before = serialize(clean(convert(model, precision, None)))
    after = optimize(before, precision.kind, RECIPE, BATCH, tmp_path)
    assert len(after) < 1.1 * len(before) < len(serialize(model)) / 2
    graph_after = onnx.load_from_string(after).graph
    assert TensorProto.FLOAT not in {w.data_type for w in graph_after.initializer if np.prod(w.dims) > 4096}
    assert "FusedConv" in {node.op_type for node in graph_after.node}
    np.testing.assert_array_equal(answers(after), answers(before))


def test_nothing_is_for_one_kind_of_cpu(tmp_path: Path) -> None:
    model = onnx.load_from_string(optimize(made(StaticInt8()), "static_int8", RECIPE, BATCH, tmp_path))
    assert not {node.domain for node in model.graph.node} & BLOCKED
    assert not [a for node in model.graph.node for a in node.attribute if a.name == "channels_last" and a.i]
    assert not [w for w in model.graph.initializer if "nchwc" in w.name]


@pytest.mark.parametrize("precision", [Float32(), Float16()])
def test_float_graphs_are_kept_for_every_processor(precision: Pinned, tmp_path: Path) -> None:
    assert optimize(made(precision), precision.kind, RECIPE, BATCH, tmp_path) == made(precision)


def test_signed_activations_become_unsigned_whichever_machine_builds(tmp_path: Path) -> None:
    """ARM would keep them and x86 would not, so the setting is fixed; a model of somebody else's may have them."""
    model = onnx.load_from_string(made(StaticInt8()))
    weights = {w.name: w for w in model.graph.initializer}
    signed = 0
    for node in model.graph.node:
        zero = weights.get(node.input[2]) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if zero is not None and zero.data_type == TensorProto.UINT8:
            value = onnx.numpy_helper.to_array(zero).astype(np.int16) - 128
            zero.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.int8), zero.name))
            signed += 1
    assert signed
    after = onnx.load_from_string(optimize(serialize(model), "static_int8", RECIPE, BATCH, tmp_path))
    kinds = {w.name: w.data_type for w in after.graph.initializer}
    assert {kinds[n.input[2]] for n in after.graph.node if n.op_type == "QLinearConv"} == {TensorProto.UINT8}


def test_graph_that_cannot_be_optimized_is_kept_and_the_reason_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert optimize(b"no model", "static_int8", RECIPE, BATCH, tmp_path) == b"no model"
    assert "ships without fused operators: onnxruntime cannot save the graph" in capsys.readouterr().err


def test_an_error_of_our_own_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "clean", lambda _: {}["missing"])
    with pytest.raises(KeyError):
        optimize(made(DynamicInt8()), "dynamic_int8", RECIPE, BATCH, tmp_path)


def test_bytes_are_those_of_other_processes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(made(StaticInt8()))
    script = (
        "import importlib, sys, hashlib, pathlib; sys.path.insert(0, sys.argv[1]);"
        f"t = importlib.import_module({__name__!r});"
        "folder = pathlib.Path(sys.argv[2]); model = (folder / 'm.onnx').read_bytes();"
        "print(hashlib.sha256(t.optimize(model, 'static_int8', t.RECIPE, t.BATCH, folder)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parents[5], tmp_path],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    own = optimize((tmp_path / "m.onnx").read_bytes(), "static_int8", RECIPE, BATCH, tmp_path)
    assert done.stdout.strip() == hashlib.sha256(own).hexdigest()
