"""8-bit products that no CPU saturates."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx.numpy_helper import to_array
from tests.constructs.model.graphs import Graph, cosine, prepared, recurrent, run

from cdk_inference.model import DynamicInt8, StaticInt8
from cdk_inference.model.building.graph.graph import clean
from cdk_inference.model.building.graph.saturation import PAIR_LIMIT, limit_pairs, saturating, unsigned
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    Feed = dict[str, np.ndarray]

LARGEST_SUM = 32_767
LARGEST_ACTIVATION = 255
SEVEN_BITS = 127 / 64


def pixels(graph: onnx.GraphProto) -> Feed:
    shape = [d.dim_value or 3 for d in graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def convolution(*shape: int, group: int = 1, **attributes: object) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        g = Graph()
        x = g.input("x", ("batch", shape[1] * group, 12, 12))
        weight = g.weight(g.random.standard_normal(shape).astype(np.float32))
        y = g.add("Conv", x, weight, g.normal(shape[0], scale=0.1), group=group, **attributes)
        return g.model(y=g.add("ReduceMean", g.add("Relu", y), g.weight([2, 3])))

    return build


def product(rows: int, columns: int, *, gemm: bool = False) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        g = Graph()
        x = g.input("x", ("batch", rows))
        if gemm:
            weight = g.weight(g.random.standard_normal((columns, rows)).astype(np.float32))
            return g.model(y=g.add("Gemm", x, weight, g.normal(columns, scale=0.1), transB=1))
        return g.model(y=g.add("MatMul", x, g.weight(g.random.standard_normal((rows, columns)).astype(np.float32))))

    return build


CONVOLUTIONS = {
    "pointwise": convolution(24, 16, 1, 1),
    "3x3": convolution(24, 16, 3, 3),
    "odd channels": convolution(16, 15, 3, 3),
    "three channels": convolution(16, 3, 3, 3),
    "strided blocks": convolution(16, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]),
    "dilated": convolution(16, 8, 3, 3, dilations=[2, 2]),
    "grouped": convolution(16, 4, 3, 3, group=4),
    "two outputs of each channel": convolution(32, 1, 3, 3, group=16),
    "depthwise": convolution(16, 1, 3, 3, group=16),
}
PRODUCTS = {"even": product(64, 48), "odd": product(65, 48), "gemm": product(64, 48, gemm=True), "lstm": recurrent}
EXACT_ANYWAY = ("depthwise",)


def quantized(build: Callable[[], onnx.ModelProto], target: str, folder: Path, *, dynamic: bool) -> onnx.ModelProto:
    model = prepared(build(), folder)
    if dynamic:
        return clean(convert(model, DynamicInt8(), None, target))
    ranges = calibrate(model, "minmax", 100.0, [pixels(model.graph)])
    return clean(convert(model, StaticInt8("minmax", 100.0), ranges, target))


CASES = [
    *(pytest.param(build, False, id=f"static {name}") for name, build in CONVOLUTIONS.items()),
    *(pytest.param(build, False, id=f"static {name}") for name, build in PRODUCTS.items() if name != "lstm"),
    *(pytest.param(build, True, id=f"dynamic {name}") for name, build in PRODUCTS.items()),
]


@pytest.mark.parametrize(("build", "dynamic"), CASES)
def test_nothing_saturates_in_what_is_made_for_x86_64(
    build: Callable[[], onnx.ModelProto], dynamic: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    full, limited = (quantized(build, target, tmp_path, dynamic=dynamic) for target in ("arm64", "x86_64"))
    assert not saturating(limited)
    assert bool(saturating(full)) != any(name in request.node.name for name in EXACT_ANYWAY)


@pytest.mark.parametrize(("build", "dynamic"), CASES)
def test_weights_that_leave_room_are_more_exact_than_those_of_seven_bits(
    build: Callable[[], onnx.ModelProto], dynamic: bool, tmp_path: Path
) -> None:
    model = prepared(build(), tmp_path)
    feed = pixels(model.graph)
    assert cosine(run(quantized(build, "x86_64", tmp_path, dynamic=dynamic), feed)[0], run(model, feed)[0]) > 0.999
    known = {w.name: to_array(w) for w in model.graph.initializer}
    for name, ranges in limit_pairs(model.graph, [n.name for n in model.graph.node]).items():
        channels = known[name].reshape(len(ranges), -1) if ranges[0]["axis"] == 0 else known[name].T
        growth = [each["rmax"] / np.abs(channel).max() for each, channel in zip(ranges, channels, strict=True)]
        assert min(growth) >= 1.0
        assert np.mean(growth) < 1.7 < SEVEN_BITS


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(1, 3), st.integers(1, 3)),
        elements=st.floats(-8, 8, width=32),
    )
)
@settings(deadline=None)
def test_no_two_products_that_are_added_first_exceed_16_bits(weights: np.ndarray) -> None:
    """Whatever order a kernel takes: pixel by pixel, from the first channel or from the second."""
    g = Graph()
    model = g.model(y=g.add("Conv", g.input("x", ("batch", weights.shape[1], 8, 8)), g.weight(weights)))
    (ranges,) = limit_pairs(model.graph, [model.graph.node[0].name]).values()
    assert [each["axis"] for each in ranges] == [0] * len(weights)
    for channel, each in zip(weights, ranges, strict=True):
        scale = each["rmax"] / 127 or 1.0
        values = np.clip(np.rint(channel / scale), -127, 127).astype(int)
        terms = np.moveaxis(values, 0, -1).ravel().tolist()
        first = list(pairwise(terms)) if len(channel) % 2 else list(zip(terms[::2], terms[1::2], strict=True))
        for one, two in first:
            assert LARGEST_ACTIVATION * (max(one, 0) + max(two, 0)) <= LARGEST_SUM
            assert LARGEST_ACTIVATION * (min(one, 0) + min(two, 0)) >= -LARGEST_SUM - 1
        # Apart from rounding, the scale must not exceed what the largest weight or pair needs.
        pairs = [abs(one) + abs(two) for one, two in first if one * two > 0]
        assert not values.any() or max(map(abs, terms)) == 127 or max(pairs) >= PAIR_LIMIT - 2


@pytest.mark.parametrize(("build", "dynamic"), CASES)
def test_unsigned_weights_give_the_same(build: Callable[[], onnx.ModelProto], dynamic: bool, tmp_path: Path) -> None:
    model = quantized(build, "x86_64", tmp_path, dynamic=dynamic)
    other = unsigned(model)
    assert not saturating(other)
    feed = pixels(model.graph)
    np.testing.assert_array_equal(run(other, feed)[0], run(model, feed)[0])
