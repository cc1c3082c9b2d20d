"""Every precision: small, close to float, and the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tests.constructs.model import graphs
from tests.constructs.model.graphs import (
    ODD,
    Graph,
    cnn,
    cosine,
    detector,
    feed,
    hybrid,
    operators,
    prepared,
    recurrent,
    run,
    transformer,
)

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.saturation import saturating
from cdk_inference.model.building.quantization import divided
from cdk_inference.model.building.quantization.calibrate import calibrate
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.building.quantization.stem import unfold_strides
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.precision import DynamicInt8, Float16, Float32, StaticInt8, WeightOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.model.recipe.precision import Pinned

EVERY = [StaticInt8(), DynamicInt8(), WeightOnly(8), WeightOnly(4, 32), Float16()]

CONVERT = """
import hashlib, json, sys
import onnx
from cdk_inference.model.building.graph.graph import clean, serialize
from cdk_inference.model.building.graph.saturation import saturating
from cdk_inference.model.building.quantization.precisions import convert
from cdk_inference.model.recipe.precision import *

for folder in sys.argv[1:]:
    model, ranges = onnx.load(f"{folder}/model.onnx"), json.load(open(f"{folder}/ranges.json"))
    for precision in (StaticInt8(), DynamicInt8(), WeightOnly(8), WeightOnly(4, 32), Float16()):
        print(hashlib.sha256(serialize(clean(convert(model, precision, ranges)))).hexdigest())
"""


def ranges_of(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    return calibrate(model, "minmax", 100.0, [feed(model, seed=s, batch=8) for s in range(4)])


def kinds(model: onnx.ModelProto) -> list[int]:
    return [w.data_type for w in model.graph.initializer if np.prod(w.dims) > 200]


@pytest.mark.parametrize(
    ("build", "precision", "closeness", "smaller"),
    [
        (cnn, StaticInt8(), 0.999, 2.8),
        (cnn, WeightOnly(), 0.9999, 2.9),
        (cnn, Float16(), 0.99999, 1.9),
        (transformer, DynamicInt8(), 0.999, 3.4),
        (transformer, WeightOnly(), 0.9995, 3.3),
        (transformer, WeightOnly(4, 32), 0.99, 4.5),
        (recurrent, DynamicInt8(), 0.999, 2.9),
        (lambda: recurrent("GRU"), DynamicInt8(), 0.9999, 2.0),
        (hybrid, StaticInt8(dynamic=("MatMul",)), 0.999, 3.0),
        (hybrid, DynamicInt8(), 0.999, 3.0),
    ],
)
def test_precisions_are_small_and_close_to_float(
    build: Callable[[], onnx.ModelProto], precision: Pinned, closeness: float, smaller: float, tmp_path: Path
) -> None:
    model = prepared(build(), tmp_path)
    converted = clean(convert(model, precision, ranges_of(model)))
    sample = feed(model, batch=32, seed=99)
    assert cosine(run(model, sample)[0], run(converted, sample)[0]) > closeness
    assert len(serialize(model)) / len(serialize(converted)) > smaller
    onnx.checker.check_model(converted)


@pytest.mark.parametrize("precision", EVERY)
def test_inputs_and_outputs_stay_as_declared(precision: Pinned, tmp_path: Path) -> None:
    model = prepared(hybrid(), tmp_path)
    converted = clean(convert(model, precision, ranges_of(model)))
    assert list(converted.graph.input) == list(model.graph.input)
    assert [(v.name, v.type.tensor_type.elem_type) for v in converted.graph.output] == [("scores", graphs.FLOAT)]


@pytest.mark.parametrize("precision", EVERY)
def test_the_float_model_is_not_touched(precision: Pinned, tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    before = serialize(model)
    convert(model, precision, ranges_of(model))
    assert serialize(model) == before


def test_float32_is_the_model_itself(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    assert serialize(convert(model, Float32(), None)) == serialize(model)


def test_bytes_are_the_same_in_other_processes(tmp_path: Path) -> None:
    """Another hash seed, one core instead of all."""
    here, folders = [], []
    for build in (cnn, transformer, hybrid):
        folders.append(tmp_path / build.__name__)
        folders[-1].mkdir()
        model = prepared(build(), folders[-1])
        ranges = ranges_of(model)
        onnx.save(model, folders[-1] / "model.onnx")
        (folders[-1] / "ranges.json").write_text(json.dumps(ranges))
        here += [hashlib.sha256(serialize(clean(convert(model, p, ranges)))).hexdigest() for p in EVERY]
    command = [sys.executable, "-c", CONVERT, *map(str, folders)]
    for seed, prefix in (("1", ["taskset", "-c", "0"]), ("2", [])):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        found = subprocess.run([*prefix, *command], env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.split() == here


def test_ranges_decide_the_bytes_of_static_int8_alone(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    ranges = ranges_of(model)
    others = {name: (low, 1.5 * high) for name, (low, high) in ranges.items()}
    for precision in EVERY:
        same = serialize(convert(model, precision, ranges)) == serialize(convert(model, precision, others))
        assert same is not isinstance(precision, StaticInt8)


@pytest.mark.parametrize("build", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("precision", [*EVERY, StaticInt8(dynamic=("MatMul",))])
def test_odd_graphs_convert_or_say_why_not(
    build: Callable[[], onnx.ModelProto], precision: Pinned, tmp_path: Path
) -> None:
    model = prepared(build(), tmp_path)
    sample = feed(model)
    ranges = calibrate(model, "minmax", 100.0, [sample])
    try:
        converted = clean(convert(model, precision, ranges))
    except ModelBuildError as error:
        assert len(str(error)) > 20  # noqa: PT017 - both are allowed
    else:
        assert cosine(run(model, sample)[0], run(converted, sample)[0]) > 0.98


@pytest.mark.parametrize("first", EVERY[:4])
@pytest.mark.parametrize("second", EVERY)
def test_quantized_graphs_convert_or_say_why_not(first: Pinned, second: Pinned, tmp_path: Path) -> None:
    model = prepared(hybrid(), tmp_path)
    ranges = ranges_of(model)
    quantized = prepared(convert(model, first, ranges), tmp_path)
    try:
        again = clean(convert(quantized, second, calibrate(quantized, "minmax", 100.0, [feed(model)])))
    except ModelBuildError:
        return
    assert cosine(run(model, feed(model))[0], run(again, feed(model))[0]) > 0.98


@pytest.mark.parametrize("build", [graphs.integers, graphs.weightless, graphs.half])
@pytest.mark.parametrize("precision", [DynamicInt8(), WeightOnly(), Float16()])
def test_models_with_nothing_to_convert_are_refused(
    build: Callable[[], onnx.ModelProto], precision: Pinned, tmp_path: Path
) -> None:
    with pytest.raises(ModelBuildError, match=r" needs .*, got none"):
        convert(prepared(build(), tmp_path), precision, None)


def test_static_int8_without_ranges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match="needs the ranges of the activations; give the recipe calibration data"):
        convert(prepared(cnn(), tmp_path), StaticInt8(), None)


@pytest.mark.parametrize(
    ("precision", "field"),
    [
        (StaticInt8(keep_float=("Conv_99",)), "keep_float"),
        (StaticInt8(dynamic=("LSTM",)), "dynamic"),
        (DynamicInt8(weight_only=("MatMul_99",)), "weight_only"),
        (Float16(keep_float=("Gru",)), "keep_float"),
    ],
)
def test_unknown_nodes_are_refused(precision: Pinned, field: str, tmp_path: Path) -> None:
    with pytest.raises(
        ModelBuildError, match=rf"precision field '{field}' must name nodes or operators of the model, got '\w+'"
    ):
        convert(prepared(cnn(), tmp_path), precision, {})


# Static int8


def test_static_int8_has_uint8_activations_and_int8_weights_per_channel(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    converted = convert(model, StaticInt8(), ranges_of(model))
    weights = {w.name: w for w in converted.graph.initializer}
    made = {o: n for n in converted.graph.node for o in n.output}
    for conv in (n for n in converted.graph.node if n.op_type == "Conv"):
        pixels, kernel = (made[n] for n in conv.input[:2])
        assert weights[pixels.input[2]].data_type == onnx.TensorProto.UINT8
        assert weights[kernel.input[0]].data_type == onnx.TensorProto.INT8
        assert list(weights[kernel.input[1]].dims) == [weights[kernel.input[0]].dims[0]]
    assert "Relu" not in operators(converted)
    assert not {"Cast", "Sub", "Div"} & set(operators(converted))  # the pixels are 8-bit values as they come


def test_kept_nodes_stay_float(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    ranges = ranges_of(model)
    heads = [n for n in model.graph.node if n.op_type == "Gemm"]
    for kept in (tuple(n.name for n in heads), ("Gemm",)):
        converted = convert(model, StaticInt8(keep_float=kept), ranges)
        weights = {w.name: w for w in converted.graph.initializer}
        found = [weights[n.input[1]].data_type for n in converted.graph.node if n.op_type == "Gemm"]
        assert found == [onnx.TensorProto.FLOAT] * len(heads)


def scenes(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return images with a patch of some colour each, a few of which the detector finds."""
    random = np.random.default_rng(seed)
    found = random.normal(0, 0.3, (count, 3, 64, 64)).astype(np.float32)
    for image in found:
        y, x = random.integers(2, 50, 2)
        image[:, y : y + 10, x : x + 10] += random.uniform(-4, 4, (3, 1, 1))
    return {"x": found}


@pytest.mark.parametrize("distribution", [False, True])
def test_what_joins_boxes_and_scores_stays_float(distribution: bool, tmp_path: Path) -> None:
    model = prepared(detector(distribution=distribution), tmp_path)
    ranges = calibrate(model, "percentile", 99.9, [scenes(16, seed) for seed in range(4)])
    converted = clean(convert(model, StaticInt8("percentile", 99.9), ranges))
    dequantized = {n.output[0] for n in converted.graph.node if n.op_type == "DequantizeLinear"}
    assert {n.op_type for n in converted.graph.node if dequantized & set(n.input)} == {"Conv"}
    sample = scenes(64, 77)
    float32, quantized = (run(each, sample)[0][:, 4:] for each in (model, converted))
    assert float32.max() > 0.99
    assert quantized.max() > 0.9
    assert np.sum((quantized > 0.25) & (float32 > 0.25)) > np.sum(float32 > 0.25) / 2


def test_nodes_without_ranges_stay_float(tmp_path: Path) -> None:
    model = prepared(cnn(), tmp_path)
    ranges = ranges_of(model)
    second = [n for n in model.graph.node if n.op_type == "Conv"][1]
    relu = next(n for n in model.graph.node if second.output[0] in n.input)
    del ranges[relu.output[0]]
    converted = convert(model, StaticInt8(), ranges)
    assert operators(converted).count("Relu") == 1
    assert cosine(run(model, feed(model))[0], run(converted, feed(model))[0]) > 0.999


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [2, 1, 0, 3], [3, 3, 3, 3]])
def test_the_first_convolution_gives_the_same_in_blocks(kernel: int, pads: list[int]) -> None:
    random = np.random.default_rng(kernel)
    g = Graph(seed=kernel)
    x = g.add("QuantizeLinear", g.input("x", ("batch", 3, 16, 20)), *_scale(g, 0.02, np.uint8(128)))
    x = g.add("DequantizeLinear", x, *_scale(g, 0.02, np.uint8(128)))
    weight = g.weight(random.integers(-127, 128, (8, 3, kernel, kernel)).astype(np.int8))
    weight = g.add("DequantizeLinear", weight, *_scale(g, 0.01, np.int8(0)))
    model = clean(g.model(y=g.add("Conv", x, weight, g.normal(8, scale=1.0), strides=[2, 2], pads=pads)))
    blocks = onnx.ModelProto.FromString(model.SerializeToString())
    assert unfold_strides(blocks.graph) == 1
    np.testing.assert_allclose(run(blocks, feed(model))[0], run(model, feed(model))[0], rtol=1e-5, atol=1e-5)


def _scale(g: Graph, scale: float, zero: np.integer) -> tuple[str, str]:
    return g.weight(np.float32(scale)), g.weight(np.array(zero))


@pytest.mark.parametrize("mean", [127.0, 127.5, 300.0])
def test_pixels_are_read_as_8_bit_values_only_where_that_is_exact(mean: float, tmp_path: Path) -> None:
    g = Graph()
    x = g.add("Cast", g.input("x", ("batch", 3, 16, 16), onnx.TensorProto.UINT8), to=graphs.FLOAT)
    x = g.add("Mul", g.add("Sub", x, g.weight(np.float32(mean))), g.weight(np.float32(1 / 128)))
    model = prepared(g.model(y=g.add("ReduceMean", g.conv(x, (3, 8)), g.weight([2, 3]))), tmp_path)
    random = np.random.default_rng(0)
    sample = {"x": random.integers(0, 256, (4, 3, 16, 16)).astype(np.uint8)}
    converted = convert(model, StaticInt8(), calibrate(model, "minmax", 100.0, [sample]))
    assert ("Cast" not in operators(converted)) == (mean == 127.0)
    assert cosine(run(model, sample)[0], run(converted, sample)[0]) > 0.999


def test_graphs_with_operators_of_onnxruntime_are_quantized_around_them(tmp_path: Path) -> None:
    g = Graph()
    x = g.conv(g.input("x", ("batch", 16, 16, 16)), (16, 16), relu=False)
    x = g.add("FastGelu", x, domain="com.microsoft")
    model = prepared(g.model(y=g.add("ReduceMean", g.conv(x, (16, 32)), g.weight([2, 3]))), tmp_path)
    converted = clean(convert(model, StaticInt8(), ranges_of(model)))
    kernels = [w for w in converted.graph.initializer if w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 4]
    assert len(kernels) == 2
    assert cosine(run(model, feed(model))[0], run(converted, feed(model))[0]) > 0.999


# Dynamic int8 and weights alone


def test_dynamic_int8_leaves_products_of_activations_and_small_matrices_float(tmp_path: Path) -> None:
    g = Graph()
    x = g.linear(g.input("x", ("batch", "sequence", 64)), 64, 64)
    x = g.add("MatMul", g.add("MatMul", x, g.add("Transpose", x, perm=[0, 2, 1])), x)
    model = prepared(g.model(y=g.linear(x, 64, 5)), tmp_path)
    found = operators(convert(model, DynamicInt8(), None))
    assert found.count("MatMulInteger") == 1
    assert found.count("MatMul") == 3


def test_dynamic_int8_quantizes_lstms(tmp_path: Path) -> None:
    model = prepared(recurrent(), tmp_path)
    assert "DynamicQuantizeLSTM" in operators(convert(model, DynamicInt8(), None))
    assert "LSTM" in operators(convert(model, DynamicInt8(keep_float=("LSTM",)), None))


def test_named_products_become_weight_only(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    name = [n.name for n in model.graph.node if n.op_type == "MatMul"][-1]
    found = operators(convert(model, DynamicInt8(weight_only=(name,)), None))
    assert (found.count("MatMulNBits"), found.count("MatMulInteger")) == (1, 11)


def test_weight_only_products_are_computed_in_8_bits(tmp_path: Path) -> None:
    model = prepared(transformer(), tmp_path)
    for bits in (8, 4):
        converted = convert(model, WeightOnly(bits, 64), None)
        products = [n for n in converted.graph.node if n.op_type == "MatMulNBits"]
        settings = [{a.name: a.i for a in n.attribute} for n in products]
        assert len(products) == 12
        assert {(s["bits"], s["block_size"], s["accuracy_level"]) for s in settings} == {(bits, 64, 4)}


def test_blocks_fit_the_matrix(tmp_path: Path) -> None:
    g = Graph()
    model = prepared(g.model(y=g.linear(g.linear(g.input("x", ("batch", 48)), 48, 128), 128, 128)), tmp_path)
    converted = convert(model, WeightOnly(8, 128), None)
    blocks = [a.i for n in converted.graph.node for a in n.attribute if a.name == "block_size"]
    assert blocks == [16, 128]


@pytest.mark.parametrize("precision", [DynamicInt8(), WeightOnly()])
def test_embeddings_and_rare_weights_are_stored_in_8_bits(precision: Pinned, tmp_path: Path) -> None:
    for build in (transformer, cnn, lambda: recurrent("GRU")):
        converted = convert(prepared(build(), tmp_path), precision, None)
        assert onnx.TensorProto.FLOAT not in {
            w.data_type for w in converted.graph.initializer if np.prod(w.dims) > 5000
        }


def tied(*, turned: bool, size: int = 64, words: int = 600) -> onnx.ModelProto:
    """Return a model whose head is its table of embeddings, or a turned copy of it."""
    g = Graph()
    table = g.normal(words, size, scale=1.0)
    ids = g.input("ids", ("batch", "sequence"), onnx.TensorProto.INT64)
    x = g.linear(g.add("Gather", table, ids), size, size)
    if turned:
        return g.model(y=g.add("MatMul", x, g.weight(onnx.numpy_helper.to_array(g.weights[0]).T.copy())))
    rows = g.add("Reshape", x, g.weight(np.array([-1, size])))
    heads = [g.add("Gemm", rows, table, transB=1) for _ in range(2)]  # the second one finds the table turned
    scores = g.add("Sub", g.add("Mul", heads[0], g.weight(2.0)), heads[1])
    return g.model(y=g.add("Reshape", scores, g.add("Concat", g.add("Shape", ids), g.weight([words]), axis=0)))


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(("precision", "closeness"), [(WeightOnly(4, 32), 0.98), (WeightOnly(8, 64), 0.9999)])
def test_embeddings_that_are_tied_to_a_head_are_its_blocks(
    precision: WeightOnly, closeness: float, turned: bool, tmp_path: Path
) -> None:
    model = prepared(tied(turned=turned), tmp_path)
    converted = clean(convert(model, precision, None))
    found = operators(converted)
    assert (found.count("GatherBlockQuantized"), found.count("Gather")) == (1, 0)
    large = [w for w in converted.graph.initializer if np.prod(w.dims) >= 600 * 64 * precision.bits // 8]
    assert [w.data_type for w in large] == [onnx.TensorProto.UINT8]
    sample = feed(model, batch=8)
    assert cosine(run(model, sample)[0], run(converted, sample)[0]) > closeness
    onnx.checker.check_model(converted)


@pytest.mark.parametrize("turned", [True, False])
def test_a_large_head_in_parts_is_stored_once(turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def converted() -> onnx.ModelProto:
        model = prepared(tied(turned=turned, size=256, words=1500), tmp_path)
        return clean(convert(model, WeightOnly(4, 32), None))

    whole = converted()
    monkeypatch.setattr(divided, "PART_BYTES", 1 << 16)
    parts, sample = converted(), feed(whole, batch=8)
    assert operators(parts).count("MatMulNBits") == operators(whole).count("MatMulNBits") + 2
    np.testing.assert_array_equal(run(whole, sample)[0], run(parts, sample)[0])
    onnx.checker.check_model(parts)
    # The scales of the lookup are those of the product.
    before, after = (weights.split(serialize(each))[1] for each in (whole, parts))
    assert len(after) <= len(before)
    weights.write(tmp_path, serialize(parts))
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, sample)[0], run(whole, sample)[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: tied(turned=True, size=72),  # the last block of a row would be filled up with zeros
        transformer,  # its head is another matrix
    ],
)
def test_other_embeddings_have_rows_of_their_own(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    converted = convert(prepared(build(), tmp_path), WeightOnly(4, 32), None)
    assert "GatherBlockQuantized" not in operators(converted)
    assert onnx.TensorProto.INT8 in kinds(converted)


def test_a_lookup_that_is_named_stays_float_next_to_one_in_blocks(tmp_path: Path) -> None:
    model = prepared(tied(turned=False), tmp_path)
    (first,) = (n for n in model.graph.node if n.op_type == "Gather")
    second = onnx.helper.make_node("Gather", list(first.input), ["again"], name="second", axis=0)
    model.graph.node.insert(0, second)
    model.graph.output.append(onnx.helper.make_tensor_value_info("again", graphs.FLOAT, ("batch", "sequence", 64)))
    converted = convert(model, WeightOnly(4, 32, keep_float=("second",)), None)
    assert operators(converted).count("GatherBlockQuantized") == operators(converted).count("Gather") == 1
    sample = feed(model)
    np.testing.assert_array_equal(run(model, sample)[1], run(converted, sample)[1])


@pytest.mark.parametrize(("turned", "head"), [(True, "MatMul"), (False, "Gemm")])
def test_embeddings_that_are_tied_to_a_head_keep_their_values(turned: bool, head: str, tmp_path: Path) -> None:
    model = prepared(tied(turned=turned), tmp_path)
    sample = feed(model, batch=8)
    for precision in (DynamicInt8(), DynamicInt8(weight_only=(head,)), StaticInt8()):
        converted = convert(model, precision, ranges_of(model))
        assert cosine(run(model, sample)[0], run(converted, sample)[0]) > 0.999


@pytest.mark.parametrize("target", ["arm64", "x86_64"])
@pytest.mark.parametrize("turned", [True, False])
def test_a_dynamic_head_takes_its_table_of_embeddings(turned: bool, target: str, tmp_path: Path) -> None:
    model = prepared(tied(turned=turned), tmp_path)
    converted = clean(convert(model, DynamicInt8(), None, target))
    assert operators(converted).count("QGemm") == 1
    large = [w for w in converted.graph.initializer if np.prod(w.dims) >= 600 * 64]
    assert [w.data_type for w in large] == [onnx.TensorProto.INT8]
    assert bool(saturating(converted)) is (target == "arm64")
    sample = feed(model, batch=8)
    assert cosine(run(model, sample)[0], run(converted, sample)[0]) > 0.999
    onnx.checker.check_model(converted)


def test_a_head_that_is_kept_in_float_or_in_blocks_shares_nothing(tmp_path: Path) -> None:
    model = prepared(tied(turned=True), tmp_path)
    products = [n.name for n in model.graph.node if n.op_type == "MatMul"]
    for precision in (DynamicInt8(keep_float=(products[-1],)), DynamicInt8(weight_only=(products[-1],))):
        assert "QGemm" not in operators(convert(model, precision, None))


@pytest.mark.parametrize("precision", [DynamicInt8(), StaticInt8(), WeightOnly()])
def test_a_matrix_may_be_that_of_several_products(precision: Pinned, tmp_path: Path) -> None:
    g = Graph()
    matrix, x = g.normal(96, 64), g.input("x", ("batch", 64))
    first = g.add("Relu", g.add("Gemm", x, matrix, transB=1))
    second = g.add("Gemm", g.add("Slice", first, g.weight([0]), g.weight([64]), g.weight([1])), matrix, transB=1)
    model = prepared(g.model(y=second), tmp_path)
    converted = convert(model, precision, ranges_of(model))
    sample = feed(model, batch=32)
    assert cosine(run(model, sample)[0], run(converted, sample)[0]) > 0.999


@pytest.mark.parametrize("precision", [DynamicInt8(), WeightOnly()])
@pytest.mark.parametrize("products", [1, 2])
def test_a_matrix_of_products_may_be_an_output_or_that_of_a_body(
    precision: Pinned, products: int, tmp_path: Path
) -> None:
    """The rewriting of Gemm turns a matrix in place."""
    for taker in ("output", "body"):
        g = Graph()
        matrix, x = g.normal(64, 64), g.input("x", ("batch", 64))
        taken, y = matrix, x
        for _ in range(products):
            y = g.add("Relu", g.add("Gemm", y, matrix, transB=1))
        if taker == "body":
            value = onnx.helper.make_tensor_value_info("z", graphs.FLOAT, ("batch", 64))
            nodes = [onnx.helper.make_node(operator, [x, matrix], ["z"]) for operator in ("MatMul", "Gemm")]
            names = ("then_branch", "else_branch")
            bodies = {n: onnx.helper.make_graph([node], n, [], [value]) for n, node in zip(names, nodes, strict=True)}
            taken = g.add("If", g.add("Cast", g.add("ReduceMax", x, keepdims=0), to=onnx.TensorProto.BOOL), **bodies)
        model = prepared(g.model(taken=taken, y=y), tmp_path)
        if taker == "output":
            name = next(n for n in model.graph.node if n.op_type == "Gemm").input[1]
            model.graph.output[0].name = name
        sample = feed(model, batch=32)
        expected, found = run(model, sample), run(convert(model, precision, None), sample)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
        assert cosine(expected[1], found[1]) > 0.999


def test_gelu_is_fused_and_smoothing_changes_no_float_result(tmp_path: Path) -> None:
    from cdk_inference.model.building.quantization.fusions import fuse_gelu
    from cdk_inference.model.building.quantization.smoothing import smooth

    model = prepared(transformer(), tmp_path)
    expected = run(model, feed(model))[0]
    assert smooth(model.graph, [n.name for n in model.graph.node if n.op_type == "MatMul"]) == 2
    assert fuse_gelu(model) == 2
    assert "Erf" not in operators(model)
    np.testing.assert_allclose(run(model, feed(model))[0], expected, rtol=1e-4, atol=1e-5)


def test_smoothing_helps_where_layer_norms_have_outliers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cdk_inference.model.building.quantization import dynamic

    g = Graph()
    scale = np.ones(64, np.float32)
    scale[[3, 40]] = 30.0
    x = g.add("LayerNormalization", g.input("x", ("batch", 64)), g.weight(scale), g.normal(64, scale=0.1))
    weights = g.random.normal(0, 0.1, (64, 256)).astype(np.float32)
    weights[[3, 40]] *= 0.03
    model = prepared(g.model(y=g.add("MatMul", x, g.weight(weights))), tmp_path)
    sample = feed(model, batch=64)
    smoothed = cosine(run(model, sample)[0], run(convert(model, DynamicInt8(), None), sample)[0])
    monkeypatch.setattr(dynamic, "smooth", lambda *_: 0)
    plain = cosine(run(model, sample)[0], run(convert(model, DynamicInt8(), None), sample)[0])
    assert 1 - smoothed < (1 - plain) / 5
