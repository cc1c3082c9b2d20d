"""The graph decides which precisions are tried on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.constructs.model.graphs import (
    ODD,
    Graph,
    branching,
    cnn,
    feed,
    half,
    hybrid,
    integers,
    prepared,
    recurrent,
    transformer,
    weightless,
)

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.search.architecture import architecture, candidates, is_quantized
from cdk_inference.model.recipe.precision import Auto, DynamicInt8, Float32, StaticInt8, WeightOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    from cdk_inference.model.recipe.precision import Pinned


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (cnn, "convolutional"),
        (transformer, "transformer"),
        (recurrent, "recurrent"),
        (lambda: recurrent("GRU"), "recurrent"),
        (hybrid, "mixed"),
        (branching, "other"),
        (weightless, "other"),
        (integers, "other"),
    ],
)
def test_kinds_of_networks(build: Callable[[], onnx.ModelProto], expected: str, tmp_path: Path) -> None:
    assert architecture(prepared(build(), tmp_path)) == expected


def test_a_network_with_one_convolution_before_its_attention_is_a_transformer(tmp_path: Path) -> None:
    g = Graph()
    x = g.conv(g.input("x", ("batch", 3, 16, 16)), (3, 64), 4, strides=[4, 4], relu=False)
    x = g.add("Transpose", g.add("Reshape", x, g.weight([0, 64, 16])), perm=[0, 2, 1])
    for _ in range(2):
        scores = g.add("Softmax", g.add("MatMul", g.linear(x, 64, 64), g.add("Transpose", x, perm=[0, 2, 1])))
        x = g.norm(g.linear(g.add("MatMul", scores, x), 64, 64), 64)
    assert architecture(prepared(g.model(y=x), tmp_path)) == "transformer"


def test_convolutional_networks_are_quantized_statically_with_calibration_alone(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    with_data = candidates(model, Auto(), calibrated=True)
    without = candidates(model, Auto(), calibrated=False)
    assert isinstance(with_data[0], StaticInt8)
    assert without == [WeightOnly()]
    assert {type(p) for p in with_data} == {StaticInt8, WeightOnly}


def test_transformers_try_their_feed_forward_layers_more_exactly(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    first, second, *_ = candidates(model, Auto(), calibrated=True)
    assert first == DynamicInt8()
    assert isinstance(second, DynamicInt8)
    shapes = {w.name: tuple(w.dims) for w in model.graph.initializer}
    nodes = {n.name: n for n in model.graph.node}
    assert [shapes[nodes[n].input[1]] for n in second.weight_only] == [(256, 64)] * 2


def test_mixed_networks_quantize_convolutions_statically_and_products_dynamically(tmp_path: Path) -> None:
    first = candidates(prepared(hybrid(), tmp_path), Auto(), calibrated=True)[0]
    assert isinstance(first, StaticInt8)
    assert first.dynamic == ("MatMul",)


def test_size_tries_four_bits(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    bits = [p.bits for p in candidates(model, Auto("size"), calibrated=True) if isinstance(p, WeightOnly)]
    assert bits == [8, 4]
    assert all(p.bits == 8 for p in candidates(model, Auto(), calibrated=True) if isinstance(p, WeightOnly))


@pytest.mark.parametrize("build", [cnn, transformer, recurrent, hybrid])
def test_every_candidate_keeps_what_the_policy_keeps_and_converts(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    model = prepared(build(), tmp_path)
    ranges = calibrate(model, "minmax", 100.0, [feed(model)])
    last = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm")][-1]
    found = candidates(model, Auto(keep_float=(last,)), calibrated=True)
    assert found
    assert len(found) <= 4  # each costs seconds
    assert not any(isinstance(p, Float32) for p in found)
    for precision in found:
        converted = convert(model, precision, ranges)
        # A Gemm may be written as a product and a sum, of float weights still.
        assert {last, f"{last}_MatMul"} & {n.name for n in converted.graph.node if n.op_type in ("Gemm", "MatMul")}


@pytest.mark.parametrize("build", [half, integers, weightless])
def test_nothing_is_tried_without_float_weights(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    assert candidates(prepared(build(), tmp_path), Auto(), calibrated=True) == []


@pytest.mark.parametrize("precision", [StaticInt8(), DynamicInt8(), WeightOnly(8), WeightOnly(4)])
def test_quantized_models_are_recognised_and_left_alone(precision: Pinned, tmp_path: Path) -> None:
    model = prepared(hybrid(), tmp_path)
    assert not is_quantized(model)
    quantized = prepared(convert(model, precision, calibrate(model, "minmax", 100.0, [feed(model)])), tmp_path)
    assert is_quantized(quantized)
    assert architecture(quantized) == "mixed"
    assert candidates(quantized, Auto(), calibrated=True) == []


def test_an_unknown_node_to_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"'keep_float' must name nodes or operators of the model, got 'Conv_99'"):
        candidates(prepared(cnn(), tmp_path), Auto(keep_float=("Conv_99",)), calibrated=True)


@pytest.mark.parametrize("build", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("objective", ["latency", "size"])
def test_odd_graphs_have_candidates_that_convert_or_none(
    build: Callable[[], onnx.ModelProto], objective: str, tmp_path: Path
) -> None:
    model = prepared(build(), tmp_path)
    ranges = calibrate(model, "percentile", 99.99, [feed(model, batch=1 if build is ODD["operator set 9"] else 4)])
    for precision in candidates(model, Auto(objective), calibrated=True):
        assert convert(model, precision, ranges).SerializeToString() != model.SerializeToString()
