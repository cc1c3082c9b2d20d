"""The nodes that quantization harms most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.constructs.model.graphs import ODD, cnn, cosine, feed, hybrid, prepared, recurrent, run, transformer

from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.search import sensitivity as module
from cdk_inference.model.building.search.sensitivity import sensitivity, soften
from cdk_inference.model.recipe.precision import DynamicInt8, Float16, Float32, StaticInt8, WeightOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.model.recipe.precision import Pinned


def harmed(work: Path, which: int = 2) -> tuple[onnx.ModelProto, str]:
    """Return a network in which one convolution's input has a channel that dwarfs the others, and that node's name."""
    model = prepared(cnn(), work)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    weights = {w.name: w for w in model.graph.initializer}
    before, node = convolutions[which - 1], convolutions[which]
    for name, factor, axis in ((before.input[1], 300.0, 0), (before.input[2], 300.0, 0), (node.input[1], 1 / 300, 1)):
        values = numpy_helper.to_array(weights[name]).copy()
        np.moveaxis(values, axis, 0)[5] *= factor
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    return model, node.name


def batches(model: onnx.ModelProto, count: int = 3) -> list[dict[str, np.ndarray]]:
    return [feed(model, seed=s) for s in range(count)]


def test_the_node_that_is_harmed_most_comes_first_and_keeping_it_repairs_the_model(tmp_path: Path) -> None:
    model, name = harmed(tmp_path)
    ranges = calibrate(model, "minmax", 100.0, batches(model))
    order = sensitivity(model, StaticInt8(), ranges, batches(model))
    assert order[0] == name
    sample = feed(model, batch=16, seed=50)
    expected = run(model, sample)[0]
    plain = cosine(expected, run(convert(model, StaticInt8(), ranges), sample)[0])
    repaired = cosine(expected, run(convert(model, soften(model, StaticInt8(), order[:1]), ranges), sample)[0])
    assert 1 - repaired < (1 - plain) / 2


@pytest.mark.parametrize(
    ("build", "precision"),
    [
        (cnn, StaticInt8()),
        (cnn, Float16()),
        (transformer, DynamicInt8()),
        (transformer, WeightOnly(4)),
        (recurrent, DynamicInt8()),
        (hybrid, StaticInt8(dynamic=("MatMul",))),
    ],
)
def test_all_nodes_named_can_be_kept(build: Callable[[], onnx.ModelProto], precision: Pinned, tmp_path: Path) -> None:
    model = prepared(build(), tmp_path)
    ranges = calibrate(model, "minmax", 100.0, batches(model))
    order = sensitivity(model, precision, ranges, batches(model))
    assert order
    assert len(set(order)) == len(order)
    assert set(order) <= {n.name for n in model.graph.node}
    softer = soften(model, precision, order[:1])
    assert softer != precision
    assert type(softer) is type(precision)
    convert(model, softer, ranges)


def test_nodes_kept_already_are_not_named(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    first, second, *_ = sensitivity(model, DynamicInt8(), None, batches(model))
    assert first not in sensitivity(model, DynamicInt8(keep_float=(first,)), None, batches(model))
    assert second in sensitivity(model, DynamicInt8(keep_float=(first,)), None, batches(model))


def test_time_is_bounded_and_what_is_not_measured_is_ranked_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared(transformer(), tmp_path)
    every = sensitivity(model, DynamicInt8(), None, batches(model))
    monkeypatch.setattr(module, "SECONDS", 0.0)
    disturbed = module._disturbed

    def unmeasured(*given: Any) -> Any:
        return SimpleNamespace(
            get_outputs=disturbed(*given).get_outputs, run=lambda *_: pytest.fail("an effect is measured")
        )

    monkeypatch.setattr(module, "_disturbed", unmeasured)
    assert set(sensitivity(model, DynamicInt8(), None, batches(model, 1))) == set(every)


@pytest.mark.parametrize("build", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("precision", [StaticInt8(), DynamicInt8(), WeightOnly()])
def test_odd_graphs_do_not_fail(build: Callable[[], onnx.ModelProto], precision: Pinned, tmp_path: Path) -> None:
    model = prepared(build(), tmp_path)
    ranges = calibrate(model, "minmax", 100.0, [feed(model)])
    assert set(sensitivity(model, precision, ranges, [feed(model)])) <= {n.name for n in model.graph.node}


def test_matrix_products_become_weight_only_and_all_else_float(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    weights = {w.name for w in model.graph.initializer}
    matrix = next(n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights)
    attention = next(n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] not in weights)
    softer = soften(model, DynamicInt8(), [matrix, attention])
    assert softer == DynamicInt8(keep_float=(attention,), weight_only=(matrix,))
    twice = soften(model, softer, [matrix])
    assert twice == DynamicInt8(keep_float=(attention, matrix))
    assert soften(model, Float32(), [matrix]) == Float32()
    assert soften(model, StaticInt8(), ["Conv_1"]) == StaticInt8(keep_float=("Conv_1",))
