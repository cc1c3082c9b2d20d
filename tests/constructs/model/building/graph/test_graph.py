"""Graphs become ready to quantize, and the same on every machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node, make_tensor_value_info
from tests.constructs.model.graphs import (
    FLOAT,
    ODD,
    Graph,
    branching,
    cnn,
    feed,
    old,
    operators,
    prepared,
    recurrent,
    run,
    transformer,
)

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import clean, fuse, opset, serialize, sort_nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODELS = ODD | {"cnn": cnn, "transformer": transformer, "lstm": recurrent}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_a_prepared_graph_answers_as_before(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = build()
    sample = feed(model)
    before, after = run(model, sample), run(prepared(model, tmp_path), sample)
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_inputs_and_outputs_keep_their_names_and_all_else_is_numbered(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["images", "scores"]
    assert [n.name for n in model.graph.node] == [f"{o}_{i}" for i, o in enumerate(operators(model))]
    values = {n for node in model.graph.node for n in (*node.input, *node.output)} - {"images", "scores"}
    assert all(re.fullmatch(r"v\d+_\d+|w\d+", v) for v in values)


def test_names_and_texts_of_the_exporter_do_not_change_the_bytes(tmp_path: Path) -> None:
    plain, marked = branching(), branching()
    names = {n: f"/home/someone/{n}" for node in marked.graph.node for n in node.output if n != "y"}
    inner = {w.name: f"their_{w.name}" for w in marked.graph.initializer}

    def rename(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.doc_string = "from source line 12"
            node.input[:] = [(names | inner).get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    rename(attribute.g)
        for weight in graph.initializer:
            weight.name = inner.get(weight.name, weight.name)

    rename(marked.graph)
    marked.producer_name, marked.graph.name = "someone's exporter", "main"
    assert serialize(clean(plain)) == serialize(clean(marked))


def test_cleaning_twice_changes_nothing(tmp_path: Path) -> None:
    model = prepared(branching(), tmp_path)
    assert serialize(clean(onnx.ModelProto.FromString(serialize(model)))) == serialize(model)


def test_batch_norms_are_fused_and_old_operator_sets_converted(tmp_path: Path) -> None:
    model = old()
    assert opset(model) == 9
    after = prepared(model, tmp_path)
    assert opset(after) >= 17
    assert "BatchNormalization" not in operators(after)
    assert [v.name for v in after.graph.input] == ["x"]


def test_an_operator_of_another_domain_keeps_its_operator_set(tmp_path: Path) -> None:
    g = Graph(opset=12)
    x = g.add("Gelu", g.linear(g.input("x", ("batch", 8)), 8, 8), domain="com.microsoft")
    model = g.model(y=x)
    after = prepared(model, tmp_path)
    assert {o.domain: o.version for o in after.opset_import}["com.microsoft"] == 1
    np.testing.assert_allclose(run(after, feed(model))[0], run(model, feed(model))[0], rtol=1e-5, atol=1e-6)


def test_folding_does_not_blow_the_file_up(tmp_path: Path) -> None:
    g = Graph()
    big = g.add("Expand", g.weight(np.ones((1, 1), np.float32)), g.weight([2048, 2048]))
    model = g.model(y=g.add("MatMul", g.input("x", ("batch", 2048)), big))
    assert len(serialize(prepared(model, tmp_path))) < 10_000


def test_outputs_that_are_weights_or_inputs_survive(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", ("batch", 4))
    model = g.model(y=g.add("Mul", x, g.weight(np.full(4, 3, np.float32))))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3, dtype=np.float32), "labels"))
    model.graph.output.append(make_tensor_value_info("labels", FLOAT, [3]))
    after = prepared(model, tmp_path)
    found = run(after, feed(model))
    np.testing.assert_array_equal(found[1], [0, 1, 2])


def test_sparse_weights_are_kept(tmp_path: Path) -> None:
    g = Graph()
    model = g.model(y=g.add("MatMul", g.input("x", ("batch", 8)), "scattered"))
    values = onnx.helper.make_tensor("scattered", FLOAT, [2], [1.5, -2.0])
    places = onnx.helper.make_tensor("places", TensorProto.INT64, [2], [3, 20])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [8, 8]))
    after = prepared(model, tmp_path)
    np.testing.assert_allclose(run(after, feed(model))[0], run(model, feed(model))[0], rtol=1e-6)


def test_names_that_the_numbering_would_give_may_be_inputs() -> None:
    g = Graph()
    model = g.model(w0=g.add("Mul", g.add("Relu", g.input("v0_0", ("batch", 4))), g.weight(np.full(4, 2, np.float32))))
    sample = {"v0_0": np.array([[-1, 1, 2, 3]], np.float32)}
    np.testing.assert_array_equal(run(clean(model), sample)[0], [[0, 2, 4, 6]])


def test_sorting_respects_what_bodies_take_from_outside(tmp_path: Path) -> None:
    model = prepared(branching(), tmp_path)
    shuffled = onnx.ModelProto.FromString(serialize(model))
    nodes = list(reversed(model.graph.node))
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    sort_nodes(shuffled.graph)
    np.testing.assert_array_equal(run(shuffled, feed(model))[0], run(model, feed(model))[0])


def test_sorting_a_cycle_is_refused() -> None:
    g = Graph()
    model = g.model(y=g.add("Relu", g.input("x", ("batch", 4))))
    model.graph.node[0].input[0] = "y"
    with pytest.raises(ModelBuildError, match="cycle"):
        sort_nodes(model.graph)


def test_a_graph_that_onnxruntime_cannot_load_is_refused(tmp_path: Path) -> None:
    g = Graph()
    model = g.model(y=g.add("Relu", g.input("x", ("batch", 4))))
    model.graph.node.insert(0, make_node("Frobnicate", ["x"], ["z"], domain="org.example"))
    with pytest.raises(ModelBuildError, match=r"onnxruntime \S+ cannot load the model: "):
        fuse(model, tmp_path)
