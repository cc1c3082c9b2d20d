"""Small ONNX files with the oddities of public ones; `verify.models` builds real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.constructs.model.graphs import cosine, prepared, run
from tests.constructs.model.loading import load

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    DynamicInt8,
    Evaluation,
    ModelRecipe,
    OnnxFile,
    Provenance,
    StaticInt8,
    TensorSpec,
    WeightOnly,
)
from cdk_inference.model.building.evaluation.data import load_samples
from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cdk_inference.model.recipe.precision import Pinned

    Array = np.ndarray[Any, Any]

RANDOM = np.random.default_rng(5)
X = TensorSpec("x", "float32", ("batch", 64))
Y = TensorSpec("y", "float32", ("batch", 48))
INPUT = {"x": RANDOM.normal(size=(16, 64)).astype(np.float32)}
WEIGHT = (RANDOM.normal(size=(64, 48)) / 8).astype(np.float32)


def make(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Array],
    x: Sequence[str | int] = ("n", 64),
    y: Sequence[str | int] = ("n", 48),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def recipe(inputs: Sequence[TensorSpec] = (X,), outputs: Sequence[TensorSpec] = (Y,)) -> ModelRecipe:
    return ModelRecipe(
        name="net",
        source=OnnxFile("net.onnx"),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )


def opened(model: onnx.ModelProto, folder: Path, *specs: Sequence[TensorSpec]) -> Any:
    onnx.save(model, folder / "net.onnx")
    return load(recipe(*specs), folder, folder / "cache")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading sets it for the process, which here goes on with other tests."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")


BIASES: dict[str, tuple[dict[str, Any], Array]] = {
    "a bias of one row": ({}, RANDOM.normal(size=(1, 48)).astype(np.float32)),
    "a scalar bias": ({}, np.array(0.7, np.float32)),
    "a bias of one value": ({}, np.array([0.7], np.float32)),
    "scaled": ({"alpha": 0.5, "beta": 2.0}, RANDOM.normal(size=48).astype(np.float32)),
    "scaled, with a scalar bias": ({"alpha": 2.0, "beta": 0.5}, np.array(-1.5, np.float32)),
}


@pytest.mark.parametrize("precision", [StaticInt8("minmax", 100.0), DynamicInt8(), WeightOnly(8)], ids=lambda p: p.kind)
@pytest.mark.parametrize(("factors", "bias"), BIASES.values(), ids=BIASES)
def test_gemm_is_quantized_with(factors: dict[str, Any], bias: Array, precision: Pinned, tmp_path: Path) -> None:
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], **factors)
    raw = make([gemm], {"w": WEIGHT, "b": bias})
    expected = run(raw, INPUT)[0]
    model = prepared(raw, tmp_path)
    np.testing.assert_allclose(run(model, INPUT)[0], expected, rtol=1e-5, atol=1e-5)
    small = convert(model, precision, calibrate(model, "minmax", 100.0, [INPUT]))
    assert all(w.data_type != TensorProto.FLOAT or np.prod(w.dims) < WEIGHT.size for w in small.graph.initializer)
    found = run(small, INPUT)[0]
    assert cosine(found, expected) > 0.999
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_gemm_with_a_bias_for_each_sample_stays_float_in_static_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Gemm", ["h", "v"], ["y"]),
    ]
    weights = {"w": WEIGHT, "b": RANDOM.normal(size=(16, 48)).astype(np.float32), "v": WEIGHT[:48]}
    raw = make(nodes, weights, (16, 64), (16, 48))
    model = prepared(raw, tmp_path)
    small = convert(model, StaticInt8("minmax", 100.0), calibrate(model, "minmax", 100.0, [INPUT]))
    kinds = [w.data_type for w in small.graph.initializer if list(w.dims) in ([64, 48], [48, 48])]
    assert sorted(kinds) == [TensorProto.FLOAT, TensorProto.INT8]
    assert cosine(run(small, INPUT)[0], run(raw, INPUT)[0]) > 0.999


def test_embeddings_that_go_straight_into_a_product_are_quantized_with_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["rows"]), helper.make_node("MatMul", ["rows", "w"], ["y"])]
    table = RANDOM.normal(size=(1000, 64)).astype(np.float32)
    raw = make(nodes, {"table": table, "w": WEIGHT}, ("n",), kind=TensorProto.INT64)
    small = convert(prepared(raw, tmp_path), DynamicInt8(), None)
    ids = {"x": RANDOM.integers(0, 1000, 16)}
    assert small.ByteSize() < 0.3 * raw.ByteSize()
    assert cosine(run(small, ids)[0], run(raw, ids)[0]) > 0.999


def test_products_of_signed_bytes_run_though_they_cannot_be_made_exact() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "t", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "t", "z"], ["y"]),
    ]
    weights: dict[str, Array] = {
        "w": np.clip(np.rint(WEIGHT * 100), -128, 127).astype(np.int8),
        "s": np.array(0.03, np.float32),
        "t": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
    }
    raw = make(nodes, weights)
    found = open_session(raw.SerializeToString()).run(None, INPUT)[0]
    np.testing.assert_allclose(found, run(raw, INPUT)[0], atol=0.2)


@pytest.mark.parametrize("opset", [7, 8])
def test_operator_set_of_2017_builds(opset: int, tmp_path: Path) -> None:
    raw = make([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, opset=opset)
    model = prepared(opened(raw, tmp_path).export(INPUT), tmp_path)
    np.testing.assert_allclose(run(model, INPUT)[0], INPUT["x"] @ WEIGHT, rtol=1e-4, atol=1e-5)


def test_sizes_below_zero_are_any_size(tmp_path: Path) -> None:
    raw = make([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, (-1, 64), (-1, 48))
    np.testing.assert_allclose(opened(raw, tmp_path).run(INPUT)[0], INPUT["x"] @ WEIGHT, rtol=1e-4, atol=1e-5)


def flattened(shape: Sequence[int]) -> onnx.ModelProto:
    """Return a graph that names its batch, and reshapes to the given shape and back."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("Reshape", ["r", "back"], ["y"]),
    ]
    return make(nodes, {"w": WEIGHT, "shape": np.array(shape), "back": np.array([1, 48])})


def test_batch_that_only_has_a_name_is_freed(tmp_path: Path) -> None:
    loaded = opened(flattened([1, 6, 8]), tmp_path)
    expected = INPUT["x"] @ WEIGHT
    np.testing.assert_allclose(loaded.run(INPUT)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(loaded.export(INPUT), INPUT)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_that_only_has_a_name_is_refused_where_it_cannot_be_freed(tmp_path: Path) -> None:
    loaded = opened(flattened([6, 8]), tmp_path)
    loaded.run(INPUT)
    why = r'net\.onnx must compute .*, got a graph for one sample; declare TensorSpec\("x", "float32", \(1, 64\)\)'
    with pytest.raises(ModelBuildError, match=why):
        loaded.export(INPUT)


def test_failing_operator_says_what_it_was_given(tmp_path: Path) -> None:
    raw = make([helper.make_node("Reshape", ["x", "shape"], ["y"])], {"shape": np.array([7, 48])})
    loaded = opened(raw, tmp_path)
    with pytest.raises(ModelBuildError, match=r"cannot run on \(x \[16, 64\]\): .*Input shape:\{16,64\}") as caught:
        loaded.run(INPUT)
    assert "::" not in str(caught.value)


def test_text_that_is_declared_as_numbers_is_refused(tmp_path: Path) -> None:
    raw = make([helper.make_node("StringNormalizer", ["x"], ["t"])], {}, ("n",), kind=TensorProto.STRING)
    with pytest.raises(ModelBuildError, match=r'got .*TensorSpec\("x", "string", \("n",\)\)'):
        opened(raw, tmp_path)


NOT_BATCH_FIRST = {
    "a state": ((X, TensorSpec("state", "float32", (2, "batch", 128))), (Y,), "state"),
    "a state of one sequence": ((X, TensorSpec("h", "float32", (1, 1, 128))), (Y,), "h"),
    "time first": ((X,), (TensorSpec("logits", "float32", (20, "batch", 37)),), "logits"),
    "a sum over the batch": ((TensorSpec("x", "float32", (8, 64)),), (TensorSpec("y", "float32", (1,)),), "y"),
}


@pytest.mark.parametrize(("inputs", "outputs", "name"), NOT_BATCH_FIRST.values(), ids=NOT_BATCH_FIRST)
def test_recipe_is_refused_with(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], name: str) -> None:
    with pytest.raises(ModelBuildError, match=rf"'{name}\.shape' must be batch first, like 'x'"):
        recipe(inputs, outputs)


def test_scalar_is_refused() -> None:
    with pytest.raises(ModelBuildError, match=r"'sr\.shape' must be .*batch first, got \(\); a scalar that never"):
        TensorSpec("sr", "int64", ())


def test_inputs_of_different_batches_are_refused(tmp_path: Path) -> None:
    data = "import numpy as np\ndef data():\n    yield {'x': np.ones((4, 2)), 'z': np.ones((1, 2))}\n"
    (tmp_path / "data.py").write_text(data)
    inputs = [TensorSpec("x", "float64", ("batch", 2)), TensorSpec("z", "float64", ("others", 2))]
    with pytest.raises(
        ModelBuildError,
        match=r"must have the same number of samples for each input, got 'x' 4, 'z' 1; make the first axis",
    ):
        load_samples(tmp_path, "data.py:data", "evaluation.data", inputs)
