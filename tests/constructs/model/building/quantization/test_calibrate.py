"""Ranges of activations."""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from tests.constructs.model.graphs import Graph, cnn, feed, prepared, run, transformer

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import StaticInt8
from cdk_inference.model.building.evaluation.measure import peak_memory
from cdk_inference.model.building.graph.graph import clean
from cdk_inference.model.building.quantization import calibrate as module
from cdk_inference.model.building.quantization.calibrate import RANGE_DIGITS, calibrate
from cdk_inference.model.building.quantization.precisions import convert

if TYPE_CHECKING:
    from pathlib import Path


def relu() -> onnx.ModelProto:
    g = Graph()
    return clean(g.model(y=g.add("Reshape", g.add("Relu", g.input("x", ("batch", 100))), g.weight([0, 10, 10]))))


def normal(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(50, 100)).astype(np.float32)} for _ in range(count)]


def test_extremes_are_those_of_all_batches() -> None:
    batches = normal(4)
    ranges = calibrate(relu(), "minmax", 100.0, batches)
    highest = max(float(b["x"].max()) for b in batches)
    assert ranges == {"v0_0": (0.0, float(f"{highest:.3e}")), "v1_0": (0.0, float(f"{highest:.3e}"))}


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles_are_those_of_all_values(percentile: float) -> None:
    g = Graph()
    model = clean(g.model(y=g.add("Reshape", g.input("x", ("batch", 100)), g.weight([0, 10, 10]))))
    batches = [{"x": b["x"] * scale} for b, scale in zip(normal(8), (0.1, 3, 1, 0.5, 2, 4, 1, 1), strict=True)]
    low, high = calibrate(model, "percentile", percentile, batches)["x"]
    values = np.concatenate([b["x"].reshape(-1) for b in batches])
    assert high == pytest.approx(np.percentile(values, percentile), abs=0.05)
    assert low == pytest.approx(np.percentile(values, 100 - percentile), abs=0.05)


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
        min_size=1,
        max_size=5,
    )
)
def test_ranges_hold_zero_and_lie_within_the_extremes(rows: list[list[float]]) -> None:
    g = Graph()
    model = clean(g.model(y=g.add("Reshape", g.input("x", ("batch", "size")), g.weight([-1]))))
    batches = [{"x": np.array([row], np.float32)} for row in rows]
    low, high = calibrate(model, "percentile", 99.0, batches)["x"]
    every = [v for row in rows for v in row]
    slack = 10.0 ** -(RANGE_DIGITS - 1) * max(map(abs, every))
    assert min(0, *every, 0) - slack <= low <= 0 <= high <= max(0, *every, 0) + slack
    clipped = calibrate(model, "minmax", 100.0, batches)["x"]
    assert clipped[0] - slack <= low
    assert high <= clipped[1] + slack


def test_ranges_are_plain_numbers_of_four_digits(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    ranges = calibrate(model, "percentile", 99.99, [feed(model)])
    assert json.loads(json.dumps(ranges)) == {k: list(v) for k, v in ranges.items()}
    assert all(float(f"{v:.3e}") == v for pair in ranges.values() for v in pair)


def test_batches_of_any_size_give_the_same_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared(cnn(), tmp_path)
    images = feed(model, batch=12)["images"]
    together = calibrate(model, "minmax", 100.0, [{"images": images}])
    assert together == calibrate(model, "minmax", 100.0, [{"images": images[i : i + 5]} for i in (0, 5, 10)])
    monkeypatch.setattr(module, "MEMORY", 1)  # one at a time
    assert together == calibrate(model, "minmax", 100.0, [{"images": images}])


def test_memory_does_not_grow_with_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared(cnn(), tmp_path)
    images = feed(model, batch=2048)["images"]  # 2 KB each, and about 200 KB of activations
    monkeypatch.setattr(module, "MEMORY", 8 << 20)
    calibrate(model, "minmax", 100.0, [{"images": images[:64]}])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calibrate(model, "minmax", 100.0, [{"images": images}])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KB


def test_models_with_a_fixed_batch_get_batches_as_they_are(tmp_path: Path) -> None:
    g = Graph()
    model = prepared(g.model(y=g.add("Gemm", g.input("x", (2, 64)), g.normal(64, 64), g.normal(64))), tmp_path)
    assert "x" in calibrate(model, "minmax", 100.0, [feed(model)])


def test_infinite_masks_have_no_range(tmp_path: Path) -> None:
    g = Graph()
    x = g.input("x", ("batch", 8))
    masked = g.add("Add", x, g.weight(np.array([0] * 7 + [np.finfo(np.float32).min], np.float32)))
    model = prepared(g.model(y=g.add("Mul", g.add("Softmax", masked), x)), tmp_path)
    ranges = calibrate(model, "percentile", 99.9, [feed(model)])
    mask = next(n.output[0] for n in model.graph.node if n.op_type == "Add")
    assert mask not in ranges
    assert "x" in ranges


def test_values_of_other_types_have_no_range(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    ranges = calibrate(model, "minmax", 100.0, [feed(model)])
    assert ranges
    assert "ids" not in ranges
    assert run(model, feed(model))[0].dtype == np.float32


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_no_data_is_refused(method: str) -> None:
    with pytest.raises(ModelBuildError, match="must yield at least one batch, got none"):
        calibrate(relu(), method, 99.9, [])


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_nan_is_refused(method: str) -> None:
    batches = normal(2)
    batches[1]["x"][3, 3] = np.nan
    with pytest.raises(ModelBuildError, match=r"calibration batch 1: the activation '\w+' must not be NaN"):
        calibrate(relu(), method, 99.9, batches)


def test_data_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ModelBuildError, match="calibration batch 0: the model cannot take it: "):
        calibrate(relu(), "minmax", 100.0, [{"x": np.zeros((2, 99), np.float32)}])


def test_sums_and_products_of_nothing_stay_float(tmp_path: Path) -> None:
    """Padding by no columns makes an empty tensor; with two threads, 8-bit sums and products of it end the process."""
    g = Graph()
    x = g.linear(g.input("x", ("batch", 64)), 64, 64)
    empty = g.add("Slice", x, g.weight([0]), g.weight([0]), g.weight([1]))
    doubled = g.add("Mul", g.add("Add", empty, empty), empty)
    model = prepared(g.model(y=g.linear(g.add("Concat", x, doubled, axis=1), 64, 64)), tmp_path)
    found = calibrate(model, "minmax", 100.0, [{"x": np.ones((2, 64), np.float32)}])
    small = convert(model, StaticInt8("minmax", 100.0), found)
    made = {name: node.op_type for node in small.graph.node for name in node.output}
    of_nothing = [n for n in small.graph.node if n.op_type in ("Add", "Mul") and "Slice" in map(made.get, n.input)]
    assert [n.op_type for n in of_nothing] == ["Add", "Mul"]
    assert "DequantizeLinear" in made.values()


@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_model_that_ends_its_process_fails_with_the_signal(tmp_path: Path, operator: str) -> None:
    """Fails in onnxruntime 1.31.1; if a later version computes it, `calibrate` may measure empty tensors again."""
    g = Graph()
    x, nothing = g.input("x", ("n",), TensorProto.UINT8), g.weight(np.zeros(0, np.uint8))
    scale, zero = g.weight(np.float32(0.1)), g.weight(np.uint8(3))
    y = g.add(operator, x, scale, zero, nothing, scale, zero, scale, zero, domain="com.microsoft")
    model = g.model(y=y, kind=TensorProto.UINT8)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "model.onnx")
    sample = {"x": np.zeros(0, np.uint8)}
    assert peak_memory(tmp_path / "model.onnx", sample, tmp_path, threads=1) > 0
    with pytest.raises(ModelBuildError, match=r"cannot run the model with 2 threads: the process was ended by signal"):
        peak_memory(tmp_path / "model.onnx", sample, tmp_path, threads=2)
