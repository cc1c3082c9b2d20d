from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.constructs.model.loading import load

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Download, Evaluation, ModelRecipe, OnnxFile, Provenance, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.model.building.importers.sources import Loaded

X = TensorSpec("x", "float32", ("batch", 4))
Y = TensorSpec("y", "float32", ("batch", 3))
EXAMPLE = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
WEIGHT = np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3)
EXPECTED = np.maximum(EXAMPLE["x"] @ WEIGHT, 0)


def value(name: str, shape: Sequence[str | int | None] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def make(
    nodes: Sequence[onnx.NodeProto] | None = None,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 18,
    **domains: int,
) -> onnx.ModelProto:
    """Return a graph, by default y = relu(x @ w)."""
    default = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(
        default if nodes is None else nodes,
        "graph",
        inputs or [value("x", ["N", 4])],
        outputs or [value("y", ["N", 3])],
        [
            numpy_helper.from_array(array, name)
            for name, array in ({"w": WEIGHT} if weights is None else weights).items()
        ],
    )
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(d.replace("_", "."), v) for d, v in domains.items()),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def recipe(source: OnnxFile, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ModelRecipe:
    return ModelRecipe(
        name="net",
        source=source,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        evaluation=Evaluation(data="data.py:evaluation"),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading sets it for the process, which here goes on with other tests."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")


@pytest.fixture
def open_net(tmp_path: Path) -> Callable[..., Loaded]:
    def open_it(
        model: onnx.ModelProto | bytes | None = None,
        inputs: Sequence[TensorSpec] = (X,),
        outputs: Sequence[TensorSpec] = (Y,),
    ) -> Loaded:
        if model is not None:
            content = model if isinstance(model, bytes) else model.SerializeToString()
            (tmp_path / "net.onnx").write_bytes(content)
        return load(recipe(OnnxFile("net.onnx"), inputs, outputs), tmp_path, tmp_path / "cache")

    return open_it


def check(
    loaded: Loaded, batch: dict[str, np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]]
) -> onnx.ModelProto:
    """Check outputs of the original and of the exported graph, also for a larger batch than the example."""
    for found, right in zip(loaded.run(batch), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    model = loaded.export({k: v[:1] for k, v in batch.items()})
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [v.name for v in session.get_inputs()] == list(batch)
    for found, right in zip(session.run(None, batch), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    return model


def opset(model: onnx.ModelProto) -> int:
    return {o.domain: o.version for o in model.opset_import}[""]


@pytest.mark.parametrize("version", [9, 11, 13, 16, 17, 18, 22])
def test_operator_sets_from_9_are_read(open_net, version: int) -> None:
    model = check(open_net(make(opset=version)), EXAMPLE, [EXPECTED])
    assert opset(model) == max(version, 17)
    dims = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert dims == [["batch", 4], ["batch", 3]]


def test_older_operator_set_is_refused(open_net) -> None:
    with pytest.raises(ModelBuildError, match=r"net\.onnx must have operator set 7 or later, got 6; export it again"):
        open_net(make(opset=6))


def test_graph_that_cannot_be_converted_stays_as_it_is(open_net) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft"),
    ]
    loaded = open_net(make(nodes, opset=11, com_microsoft=1))
    expected = loaded.run(EXAMPLE)
    model = check(loaded, EXAMPLE, expected)
    assert {o.domain: o.version for o in model.opset_import}["com.microsoft"] == 1


def test_machine_learning_operators_are_kept(open_net) -> None:
    nodes = [helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5] * 4, scale=[2.0] * 4)]
    y = TensorSpec("y", "float32", ("batch", 4))
    loaded = open_net(make(nodes, outputs=[value("y", ["N", 4])], weights={}, ai_onnx_ml=3), outputs=[y])
    check(loaded, EXAMPLE, [(EXAMPLE["x"] - 0.5) * 2])


def test_weights_may_be_inputs_too(open_net) -> None:
    model = make(inputs=[value("x", ["N", 4]), value("w", [4, 3])], opset=10)
    model.ir_version = 3
    check(open_net(model), EXAMPLE, [EXPECTED])


def test_names_may_be_anything_printable(open_net) -> None:
    nodes = [helper.make_node("MatMul", ["serving/in put:0", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y.1"])]
    model = make(nodes, [value("serving/in put:0", ["N", 4])], [value("y.1", ["N", 3])])
    x, y = TensorSpec("serving/in put:0", "float32", ("n", 4)), TensorSpec("y.1", "float32", ("n", 3))
    check(open_net(model, [x], [y]), {"serving/in put:0": EXAMPLE["x"]}, [EXPECTED])


def test_order_and_choice_are_the_recipes(open_net) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Neg", ["a"], ["other"]),
    ]
    values = {n: value(n, ["N", 4]) for n in ("a", "b", "sum", "product", "other")}
    model = make(nodes, [values["a"], values["b"]], [values["other"], values["sum"], values["product"]], weights={})
    inputs = [TensorSpec(n, "float32", ("batch", 4)) for n in ("b", "a")]
    outputs = [TensorSpec(n, "float32", ("batch", 4)) for n in ("product", "sum")]
    a, b = EXAMPLE["x"], EXAMPLE["x"] + 3
    check(open_net(model, inputs, outputs), {"b": b, "a": a}, [a * b, a + b])


def test_undeclared_shapes_are_accepted(open_net) -> None:
    check(open_net(make(inputs=[value("x", None)], outputs=[value("y", None)])), EXAMPLE, [EXPECTED])
    check(open_net(make(inputs=[value("x", [None, 4])], outputs=[value("y", [None, None])])), EXAMPLE, [EXPECTED])


def test_graph_for_one_sample_is_freed(open_net) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Reshape", ["r", "flat"], ["y"]),
    ]
    for shape in ([1, -1], [1, 3]):
        weights = {"w": WEIGHT, "flat": np.array(shape)}
        model = make(nodes, [value("x", [1, 4])], [value("y", [1, 3])], weights)
        model.graph.value_info.append(value("h", [1, 3]))
        check(open_net(model), EXAMPLE, [EXPECTED])


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_public_graphs_for_one_image_take_batches(name: str, tmp_path: Path) -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    weights = {w.name for w in model.graph.initializer}
    (x,), (y,) = [v for v in model.graph.input if v.name not in weights], model.graph.output
    outputs = [TensorSpec(y.name, "float32", ("batch", *(d.dim_value for d in y.type.tensor_type.shape.dim[1:])))]
    inputs = [TensorSpec(x.name, "float32", ("batch", 3, 224, 224))]
    (tmp_path / "net.onnx").symlink_to(folder / f"light_{name}.onnx")
    loaded = load(recipe(OnnxFile("net.onnx"), inputs, outputs), tmp_path, tmp_path / "cache")
    images = {x.name: np.random.default_rng(0).random((2, 3, 224, 224), np.float32)}
    assert opset(check(loaded, images, loaded.run(images))) >= 17


def test_graph_for_one_sample_that_mixes_samples_fails(open_net) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h", "axis"], ["s"], keepdims=1),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    model = make(nodes, [value("x", [1, 4])], [value("y", [1, 3])], {"w": WEIGHT, "axis": np.array([0])})
    loaded = open_net(model)
    loaded.run(EXAMPLE)
    why = r'got a graph for one sample; declare TensorSpec\("x", "float32", \(1, 4\)\), TensorSp'
    with pytest.raises(ModelBuildError, match=why):
        loaded.export(EXAMPLE)


MISMATCHES = {
    "name": [TensorSpec("z", "float32", ("batch", 4))],
    "type": [TensorSpec("x", "uint8", ("batch", 4))],
    "size": [TensorSpec("x", "float32", ("batch", 5))],
    "rank": [TensorSpec("x", "float32", ("batch", 4, 1))],
    "symbol": [TensorSpec("x", "float32", ("batch", "size"))],
    "number": [X, TensorSpec("z", "float32", ("batch", 4))],
}


@pytest.mark.parametrize("inputs", MISMATCHES.values(), ids=MISMATCHES)
def test_declared_inputs_fail_by_another(open_net, inputs: list[TensorSpec]) -> None:
    why = (
        r'net\.onnx must have inputs=\(TensorSpec\(.*, as the recipe declares, got inputs=\(TensorSpec\("x", '
        r'"float32", \("N", 4\)\),\), outputs=\(TensorSpec\("y", "float32", \("N", 3\)\),\)$'
    )
    with pytest.raises(ModelBuildError, match=why):
        open_net(make(), inputs=inputs)


def test_declared_output_fails_that_the_graph_lacks(open_net) -> None:
    with pytest.raises(
        ModelBuildError, match=r'got .*outputs=\(TensorSpec\("y", "float32", \("batch", "size_1"\)\),\)$'
    ):
        open_net(make(outputs=[value("y", [None, None])]), outputs=[TensorSpec("scores", "float32", ("batch", 3))])


def test_message_about_a_graph_with_many_outputs_is_short(open_net) -> None:
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"]) for i in range(300)]
    outputs = [value(f"y{i}", ["N", 4]) for i in range(300)]
    with pytest.raises(ModelBuildError, match=r'TensorSpec\("y0", .* and 29\d more') as caught:
        open_net(make(nodes, outputs=outputs))
    assert len(str(caught.value)) < 1200


def test_output_that_is_not_as_the_graph_says_fails(open_net) -> None:
    y = TensorSpec("y", "float32", ("batch", 9))
    with pytest.raises(
        ModelBuildError, match=r'the graph must return .*, got TensorSpec\("y", "float32", \("batch", 3\)\)$'
    ):
        open_net(make(outputs=[value("y", None)]), outputs=[y]).run({"x": EXAMPLE["x"][:2]})


def test_example_of_another_type_fails(open_net) -> None:
    with pytest.raises(ModelBuildError, match=r"'x' must be float32 .*, got float64"):
        open_net(make()).run({"x": EXAMPLE["x"].astype(np.float64)})


def test_example_that_the_graph_cannot_compute_fails(open_net) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = make(nodes, outputs=[value("y", [None, 5])], weights={"shape": np.array([-1, 5])})
    loaded = open_net(model, outputs=[TensorSpec("y", "float32", ("rows", 5))])
    with pytest.raises(ModelBuildError, match=r"net\.onnx cannot run on \(x \[3, 4\]\): .*[Rr]eshape"):
        loaded.run(EXAMPLE)


def classifier(*nodes: onnx.NodeProto, labels: dict[str, Any]) -> onnx.ModelProto:
    """Return y = relu(x @ w), which nodes make of x, and a map of y for each item, `p`."""
    maps = onnx.ValueInfoProto(name="p")
    kind = maps.type.sequence_type.elem_type.map_type
    kind.key_type = TensorProto.INT64
    kind.value_type.tensor_type.elem_type = TensorProto.FLOAT
    zips = helper.make_node("ZipMap", ["y"], ["p"], domain="ai.onnx.ml", **labels)
    return make([*nodes, zips], outputs=[maps], ai_onnx_ml=1)


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [0, 1, 2]}, {"classlabels_strings": ["a", "b", "c"]}])
def test_a_map_of_probabilities_becomes_the_tensor_that_it_is_made_of(open_net, labels: dict[str, Any]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = check(
        open_net(classifier(*nodes, labels=labels), outputs=[TensorSpec("p", "float32", ("batch", 3))]),
        EXAMPLE,
        [EXPECTED],
    )
    assert "ZipMap" not in {node.op_type for node in model.graph.node}
    with pytest.raises(ModelBuildError, match=r'got .*outputs=\(TensorSpec\("p", "float32", \("batch", 3\)\),\)'):
        open_net(outputs=[TensorSpec("p", "float32", ("batch", 4))])


def test_a_graph_of_trees_alone_gets_the_operators_that_its_tensor_needs(open_net) -> None:
    """As CatBoost writes it; what looks like such a map and is none is refused as any other graph."""
    scaled = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    model = classifier(scaled, labels={"classlabels_int64s": [0, 1, 2, 3]})
    del model.opset_import[:], model.graph.initializer[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    p = TensorSpec("p", "float32", ("batch", 4))
    check(open_net(model, outputs=[p]), EXAMPLE, [(EXAMPLE["x"] - 1) * 2])
    del model.graph.node[1].input[:]
    with pytest.raises(ModelBuildError, match=r"output 'p' must be a tensor of numbers, got a sequence"):
        open_net(model, outputs=[p])


def test_sequences_of_tensors_are_refused(open_net) -> None:
    sequence = helper.make_tensor_sequence_value_info("p", TensorProto.FLOAT, None)
    nodes = [helper.make_node("SequenceConstruct", ["x", "x"], ["p"])]
    with pytest.raises(ModelBuildError, match=r"output 'p' must be a tensor of numbers, got a sequence; export it as"):
        open_net(make(nodes, outputs=[sequence], weights={}), outputs=[TensorSpec("p", "float32", ("batch", 4))])


def test_trees_of_several_numbers_may_say_that_they_return_one(open_net) -> None:
    """As skl2onnx writes them."""
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=2,
        nodes_treeids=[0],
        nodes_nodeids=[0],
        nodes_featureids=[0],
        nodes_modes=["LEAF"],
        nodes_values=[0.0],
        nodes_truenodeids=[0],
        nodes_falsenodeids=[0],
        target_treeids=[0, 0],
        target_nodeids=[0, 0],
        target_ids=[0, 1],
        target_weights=[3.0, 5.0],
    )
    model = make([tree], outputs=[value("y", [None, 1])], weights={}, ai_onnx_ml=1)
    check(open_net(model, outputs=[TensorSpec("y", "float32", ("batch", 2))]), EXAMPLE, [np.array([[3, 5]] * 3, "f4")])
    with pytest.raises(
        ModelBuildError, match=r'the graph must return .*3\)\), as .* got .*"y", "float32", \("batch", 2\)\)'
    ):
        open_net(outputs=[TensorSpec("y", "float32", ("batch", 3))]).run(EXAMPLE)


@pytest.mark.parametrize(("labels", "base"), [({}, [0.5, 1.5]), ({"classlabels_int64s": [0, 1]}, [0.0] * 3)])
def test_trees_with_numbers_of_no_class_are_refused(open_net, labels: dict[str, Any], base: list[float]) -> None:
    """As CatBoost writes several numbers, and onnxmltools several labels of XGBoost."""
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", base_values=base, **labels
    )
    model = make([tree], outputs=[value("y", ["N", 2])], weights={}, ai_onnx_ml=1)
    with pytest.raises(ModelBuildError, match=r"name the classes of its trees, [23] or more, got [02]; its converter"):
        open_net(model, outputs=[TensorSpec("y", "float32", ("batch", 2))])


@pytest.mark.parametrize("locale", [{}, {"locale": "en_US"}])
def test_texts_change_their_case_by_a_locale_that_functions_have(open_net, locale: dict[str, str]) -> None:
    lower = helper.make_node("StringNormalizer", ["x"], ["z"], case_change_action="LOWER", **locale)
    counts = helper.make_node(
        "TfIdfVectorizer",
        ["z"],
        ["y"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1, 2],
        pool_strings=["größe", "éa", "b"],
    )
    texts = TensorSpec("x", "string", (3,))
    model = make([lower, counts], [value("x", [3], TensorProto.STRING)], [value("y", [3])], {})
    loaded = open_net(model, [texts], [TensorSpec("y", "float32", (3,))])
    assert loaded.run({"x": np.array(["GRÖSSE", "Größe", "ÉA"])})[0].tolist() == [1, 1, 0]


def test_the_case_of_another_language_fails(open_net) -> None:
    lower = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="tr_TR.UTF-8")
    model = make([lower], [value("x", [3], TensorProto.STRING)], [value("y", [3], TensorProto.STRING)], {})
    with pytest.raises(ModelBuildError, match=r"without a locale, got 'tr_TR\.UTF-8', which functions lack"):
        open_net(model, [TensorSpec("x", "string", (3,))], [TensorSpec("y", "float32", (3,))])


def test_text_outputs_are_refused(open_net) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)]
    with pytest.raises(ModelBuildError, match=r"output 'y' must be a tensor of numbers, got text"):
        open_net(make(nodes, outputs=[value("y", ["N", 4], TensorProto.STRING)], weights={}))


UNKNOWN = {
    "an operator of nobody": (
        helper.make_node("Frobnicate", ["x"], ["y"]),
        r"cannot use the operator Frobnicate .*lacks",
    ),
    "another domain": (
        helper.make_node("Do", ["x"], ["y"], domain="com.example"),
        r"cannot use the operator com\.example[:.]Do, which onnxruntime .* lacks",
    ),
}


@pytest.mark.parametrize(("node", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_graph_fails_with(open_net, node: onnx.NodeProto, why: str) -> None:
    with pytest.raises(ModelBuildError, match=why):
        open_net(make([node], weights={}, com_example=1))


def test_operator_without_an_implementation_fails(open_net) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = make(nodes, [value("x", ["N", 4], TensorProto.UINT8)], [value("y", ["N", 4], TensorProto.UINT8)], {})
    specs = [TensorSpec(n, "uint8", ("batch", 4)) for n in "xy"]
    with pytest.raises(ModelBuildError, match=r"onnxruntime .* cannot load ONNX file net\.onnx: .*Relu"):
        open_net(model, specs[:1], specs[1:])


def save_external(model: onnx.ModelProto, folder: Path, data: str = "net.data") -> None:
    onnx.save_model(
        model,
        str(folder / "net.onnx"),
        save_as_external_data=True,
        location=data,
        size_threshold=0,
        convert_attribute=True,
    )


def redirect(folder: Path, **changes: str) -> None:
    """Change where a saved graph says that its weights are."""
    model = onnx.load(str(folder / "net.onnx"), load_external_data=False)
    (tensor,) = model.graph.initializer
    where = {entry.key: entry.value for entry in tensor.external_data} | changes
    del tensor.external_data[:]
    for key, text in where.items():
        tensor.external_data.add(key=key, value=text)
    (folder / "net.onnx").write_bytes(model.SerializeToString())


def test_external_weights_are_included(open_net, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    save_external(make(), tmp_path, "weights/net.data")
    model = check(open_net(), EXAMPLE, [EXPECTED])
    assert all(w.data_location == TensorProto.DEFAULT and not w.external_data for w in model.graph.initializer)


def test_external_weights_in_attributes_are_included(open_net, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    save_external(make(nodes, weights={}), tmp_path)
    assert (tmp_path / "net.data").stat().st_size == WEIGHT.nbytes
    check(open_net(), EXAMPLE, [EXPECTED])


def test_external_weights_may_come_from_the_cache(tmp_path: Path) -> None:
    import hashlib

    save_external(make(), tmp_path, "original.data")
    files = []
    for name in ("net.onnx", "original.data"):
        content = (tmp_path / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        (tmp_path / "cache" / "files" / sha256).mkdir(parents=True)
        (tmp_path / "cache" / "files" / sha256 / name).write_bytes(content)
        files.append(Download(f"https://example.com/{name}", sha256))
    source = OnnxFile(files[0], external_data=(files[1],))
    check(load(recipe(source, [X], [Y]), tmp_path / "recipe", tmp_path / "cache"), EXAMPLE, [EXPECTED])
    with pytest.raises(
        ModelBuildError, match=r"'original\.data' next to it, got no such file; .*name it in external_data"
    ):
        load(recipe(OnnxFile(files[0]), [X], [Y]), tmp_path / "recipe", tmp_path / "cache")


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "", "..\\secret", "link", "folder/secret"]
)
def test_external_weights_outside_of_the_folder_are_refused(open_net, tmp_path: Path, location: str) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_bytes(bytes(100))
    (tmp_path / "link").symlink_to(secret)
    (tmp_path / "folder").symlink_to(tmp_path.parent)
    save_external(make(), tmp_path)
    redirect(tmp_path, location=location)
    with pytest.raises(ModelBuildError, match=r"net\.onnx must have its weights in its folder, got "):
        open_net()


@pytest.mark.parametrize(
    "changes",
    [{"offset": "1"}, {"length": "49"}, {"offset": "-48"}, {"offset": "x"}, {"offset": "48", "length": str(2**62)}],
)
def test_external_weights_beyond_the_file_are_refused(open_net, tmp_path: Path, changes: dict[str, str]) -> None:
    save_external(make(), tmp_path)
    redirect(tmp_path, **changes)
    with pytest.raises(ModelBuildError, match=r"the weights 'w' must lie within the 48 bytes of net\.data, got offset"):
        open_net()


@pytest.mark.parametrize("changes", [{"length": "44"}, {"offset": "48", "length": "0"}])
def test_external_weights_of_another_size_fail(open_net, tmp_path: Path, changes: dict[str, str]) -> None:
    save_external(make(), tmp_path)
    redirect(tmp_path, **changes)
    with pytest.raises(ModelBuildError, match=r"net\.onnx"):
        open_net()


def test_missing_external_weights_fail(open_net, tmp_path: Path) -> None:
    save_external(make(), tmp_path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelBuildError, match=r"needs its weights in 'net\.data' next to it"):
        open_net()
    (tmp_path / "net.data").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(ModelBuildError, match=r"'net\.data', got a git-lfs pointer"):
        open_net()


def test_many_references_to_the_same_weights_are_refused(open_net, tmp_path: Path) -> None:
    model = make()
    save_external(model, tmp_path)
    with (tmp_path / "net.data").open("wb") as file:
        file.truncate(2**28)  # takes no space
    model = onnx.load(str(tmp_path / "net.onnx"), load_external_data=False)
    (tensor,) = model.graph.initializer
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="net.data")
    for i in range(20):
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = f"w{i}"
    with pytest.raises(ModelBuildError, match=r"weights of 0\.3 GB, .*, got 5\.6 GB, which refer to the same bytes"):
        open_net(model.SerializeToString())


def test_file_of_2_gb_is_refused(open_net, tmp_path: Path) -> None:
    with (tmp_path / "net.onnx").open("wb") as file:
        file.write(make().SerializeToString())
        file.truncate(2**31)  # takes no space
    with pytest.raises(ModelBuildError, match=r"net\.onnx must be below 2 GB, got 2\.1 GB; save its weights as ext"):
        open_net()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"net\.onnx must be an ONNX graph, got an empty file"),
        (b"<!DOCTYPE html>", r"must be an ONNX graph, got an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"must be an ONNX graph, got a git-lfs pointer; fetch the file with",
        ),
        (b"PK\3\4", r"must be an ONNX graph, got zip"),
        (json.dumps({"a": 1}).encode(), r"must be an ONNX graph, got a damaged, maybe truncated one"),
        (bytes(range(160, 255)), r"must be an ONNX graph, got a damaged, maybe truncated one"),
    ],
    ids=["empty", "html", "lfs", "zip", "json", "bytes"],
)
def test_file_of_another_kind_is_refused(open_net, content: bytes, why: str) -> None:
    with pytest.raises(ModelBuildError, match=why):
        open_net(content)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_truncated_file_fails_wherever_it_ends(open_net, data: st.DataObject) -> None:
    # The operator sets come last: without them it is not a whole graph.
    content = make().SerializeToString()
    with pytest.raises(ModelBuildError, match=r"net\.onnx"):
        open_net(content[: data.draw(st.integers(0, len(content) - 1))])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_altered_file_is_read_or_refused(open_net, data: st.DataObject) -> None:
    content = bytearray(make().SerializeToString())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        loaded = open_net(bytes(content))
        loaded.run(EXAMPLE)
        loaded.export(EXAMPLE)
    except ModelBuildError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
