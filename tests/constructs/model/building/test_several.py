"""Models of several graphs are built, judged and packed as one; the graphs here are made by hand."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from tests.runtime.engine.drivers import graphs

from cdk_inference.common.store import Store
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import (
    Auto,
    DynamicInt8,
    Evaluation,
    Float16,
    Float32,
    Graph,
    Graphs,
    Greedy,
    ModelRecipe,
    OnnxFile,
    PerGraph,
    Provenance,
    Recurrent,
    Sampling,
    TensorSpec,
    WeightOnly,
    build_model,
)
from cdk_inference.model.building.evaluation.data import first_batch
from cdk_inference.model.building.evaluation.driven import Recorded
from cdk_inference.model.building.evaluation.opening import open_file, open_model
from cdk_inference.model.building.evaluation.texts import check_end
from cdk_inference.model.building.exported import exported
from cdk_inference.model.building.graph import aside
from cdk_inference.model.building.passes import Passes
from cdk_inference.model.building.search import optimize
from cdk_inference.model.building.search.several import SeveralConversions
from cdk_inference.model.building.search.trials import Trials
from cdk_inference.model.files import weights
from cdk_inference.model.files.packed import is_packed, pack, unpack
from cdk_inference.model.records.fingerprint import hash_files
from inference_runtime.engine.engine import LocalEngine
from inference_runtime.stages.builtin.vocabulary import Vocabulary
from inference_runtime.tensors.tensor import arrays_of, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model.recipe.precision import Pinned

STEPS = 12
DATA = """
import numpy as np

def evaluation():
    for seed in (1, 2):
        yield {"source": np.random.default_rng(seed).normal(0, 1.5, (9, 3)).astype(np.float32)}

def sounds():
    for seed, places in ((1, 7), (2, 12)):
        random = np.random.default_rng(seed)
        sound, before = random.normal(0, 1, (3, places)), random.normal(0, 1, (3, 1))
        yield {"sound": sound.astype(np.float32), "before": before.astype(np.float32)}
"""
SOURCE = TensorSpec("source", "float32", ("batch", 3))
DECODER = Graph(
    OnnxFile("decoder.onnx"),
    inputs=(
        TensorSpec("tokens", "int64", ("batch", "steps")),
        TensorSpec("memory", "float32", ("batch", 8)),
        TensorSpec("past", "float32", ("batch", "before", 8)),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 7)), TensorSpec("present", "float32", ("batch", "after", 8))),
)
ENCODER = Graph(OnnxFile("encoder.onnx"), (SOURCE,), (TensorSpec("memory", "float32", ("batch", 8)),))
GREEDY = Greedy(start=graphs.START, end=graphs.END, max_steps=STEPS, states={"present": "past"})


def recipe(driver: Any = GREEDY, precision: Pinned | None = None, **changes: Any) -> ModelRecipe:
    fields: dict[str, Any] = {
        "name": "several",
        "source": Graphs({"encoder": ENCODER, "decoder": DECODER}, driver),
        "inputs": (SOURCE,),
        "outputs": (TensorSpec("tokens", "int64", ("batch", STEPS)), TensorSpec("scores", "float32", ("batch",))),
        "precision": precision or Float32(),
        "evaluation": Evaluation("data.py:evaluation", "exact_match", vocabulary="vocabulary.txt", max_drop=0.5),
        "provenance": Provenance("CC0-1.0", "random numbers"),
        **changes,
    }
    return ModelRecipe(**fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "vocabulary.txt").write_text("\n".join(["<pad>", "<s>", "</s>", *"abcd"]), "utf-8")
    models = {
        "encoder": graphs.encoder(),
        "decoder": graphs.decoder(cached=True, places=None),
        "adder": graphs.adder(),
    }
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path


def test_what_is_built_runs_as_the_graphs_do(folder: Path) -> None:
    precision = PerGraph({"encoder": Float32(), "decoder": Float16()})
    built = build_model(recipe(precision=precision), folder=folder, cache=folder / "cache")
    facts = {name: graph.precision for name, graph in built.manifest.graphs.items()}
    assert (built.manifest.precision, facts) == ("per_graph", {"encoder": "float32", "decoder": "float16"})
    assert built.manifest.target == "any"
    built = build_model(recipe(), folder=folder, cache=folder / "cache")
    assert {file.name for file in built.path.iterdir()} == {
        *("driver.json", "encoder.onnx", "decoder.onnx", "manifest.json")
    }
    source = np.random.default_rng(3).normal(0, 1.5, (5, 3)).astype(np.float32)
    tokens, scores = open_file(weights.entry(built.path), 1).run(["tokens", "scores"], {"source": source})
    for one, said, score in zip(source, tokens.tolist(), scores, strict=True):
        made, total = [], 0.0
        while len(made) < STEPS:
            logarithms = graphs.logarithms(one, made)
            made.append(int(np.argmax(logarithms)))
            total += logarithms[made[-1]]
            if made[-1] == graphs.END:
                break
        assert said == [*made, *[graphs.END] * (STEPS - len(made))]
        assert score == pytest.approx(total, abs=1e-4)
    assert json.loads(built.manifest.to_json())["graphs"]["decoder"]["size_bytes"] == (
        (built.path / "decoder.onnx").stat().st_size
    )


def test_a_model_that_draws_is_judged_by_the_draws_of_the_float_model(folder: Path) -> None:
    driver = Sampling(start=graphs.START, end=graphs.END, max_steps=STEPS, temperature=3.0, states={"present": "past"})
    built = build_model(recipe(driver, Float16()), folder=folder, cache=folder / "cache")
    metric = built.manifest.metric
    assert (metric.name, metric.baseline) == ("exact_match", 1.0)
    assert metric.quantized > 0.9  # other noise would draw another text for nearly each sample
    source = np.random.default_rng(3).normal(0, 1.5, (5, 3)).astype(np.float32)
    found = [open_file(weights.entry(built.path), 1).run(["tokens"], {"source": source})[0].tolist() for _ in range(2)]
    likeliest = open_file(weights.entry(build_model(recipe(), folder=folder, cache=folder / "cache").path), 1)
    assert found[0] == found[1] != likeliest.run(["tokens"], {"source": source})[0].tolist()


def test_large_graphs_become_the_same_artifact_as_small_ones(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights to ship, and the same answers, though weights stay in files. Nodes may come in another order."""
    for module in (weights, aside):
        monkeypatch.setattr(module, "LEAST_BYTES", 32)
    monkeypatch.setattr(optimize, "FLOAT", ())  # fuse these graphs, too, as those in 8 bits
    precision, model = PerGraph({"encoder": Float32(), "decoder": Float16()}), recipe()
    request = {"files": hash_files(folder, model), "packages": []}
    example = first_batch(folder, model.evaluation.data, "evaluation.data", model.inputs)
    found = []
    for limit in (weights.LARGE, 0):
        monkeypatch.setattr(weights, "LARGE", limit)
        cache = tmp_path_factory.mktemp("cache")
        passes = Passes(Store(cache), "test", io.StringIO())
        float32, _ = exported(model, request, folder, cache, example, passes)
        assert weights.is_large(float32) == (limit == 0)
        trials = Trials(model, folder, float32, passes)
        tried = [trials.run(one) for one in (Float32(), precision)]
        assert [trial.failure for trial in tried] == ["", ""]
        shipped = [trial.shipped for trial in tried if trial.shipped]
        trials.check(shipped[1])
        files = [{file.name: file.read_bytes() for file in weights.files(made)} for made in shipped]
        read = [[onnx.load(file, load_external_data=False) for file in sorted(made.glob("*.onnx"))] for made in shipped]
        nodes = [[sorted(node.op_type for node in graph.graph.node) for graph in one] for one in read]
        same = [{name: data for name, data in made.items() if not name.endswith(".onnx")} for made in files]
        found.append((same, nodes, [array.tolist() for trial in tried for batch in trial.outputs for array in batch]))
    assert found[0] == found[1]
    assert found[0][0][0].keys() == {"driver.json", "encoder.weights", "decoder.weights"}


def test_a_state_begins_with_an_input_of_the_model_in_the_build_and_in_the_function(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4
    adder = Graph(
        OnnxFile("adder.onnx"),
        inputs=(TensorSpec("sound", "float32", ("batch", size)), TensorSpec("state", "float32", ("batch", 1))),
        outputs=(TensorSpec("state_out", "float32", ("batch", 1)), TensorSpec("total", "float32", ("batch", 1))),
        reads={"state": "before"},
    )
    model = graphs.adder()
    for value in (model.graph.input[0], model.graph.output[2]):
        value.type.tensor_type.shape.dim[1].dim_value = size
    del model.graph.output[2]
    onnx.save(model, folder / "adder.onnx")
    driver = Recurrent(over="sound", chunk=size, states={"state_out": "state"}, outputs={"total": "last"})
    made = recipe(
        source=Graphs({"adder": adder}, driver),
        inputs=(TensorSpec("sound", "float32", ("batch", "time")), TensorSpec("before", "float32", ("batch", 1))),
        outputs=(TensorSpec("total", "float32", ("batch", 1)),),
        evaluation=Evaluation("data.py:sounds", "mean_absolute_error"),
    )
    built = build_model(made, folder=folder, cache=folder / "cache")
    sound = np.arange(18, dtype=np.float32).reshape(2, 9)
    inputs = {"sound": sound, "before": np.array([[-7], [70]], np.float32)}
    expected = inputs["before"] + sound.sum(axis=1, keepdims=True)
    (total,) = open_file(weights.entry(built.path), 1).run(None, inputs)
    np.testing.assert_allclose(total, expected)
    (folder / "model").symlink_to(built.path)
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(folder))
    engine = LocalEngine()
    engine.warm_up()
    np.testing.assert_allclose(arrays_of(engine.infer(tensors_of(inputs)))["total"], expected)


def test_an_end_token_that_is_text_needs_lengths() -> None:
    vocabulary = Vocabulary(["<pad>", "<s>", "[SEP]", *"abcd"])
    with pytest.raises(
        ModelBuildError, match=r"must have 'lengths' if the end token is text, got '\[SEP\]' as token 2"
    ):
        check_end(recipe(), vocabulary)
    check_end(recipe(outputs=(*recipe().outputs, TensorSpec("lengths", "int64", ("batch",)))), vocabulary)
    check_end(recipe(), Vocabulary(["<pad>", "<s>", "</s>", *"abcd"]))


def test_a_search_that_never_goes_on_cannot_be_traced(folder: Path) -> None:
    with pytest.raises(ModelBuildError, match="must begin with samples that take graph 'decoder' several steps"):
        build_model(
            recipe(
                Greedy(start=1, end=2, max_steps=1, states={"present": "past"}),
                outputs=(TensorSpec("tokens", "int64", ("batch", 1)),),
            ),
            folder=folder,
            cache=folder / "cache",
        )


def test_a_model_in_one_file_is_the_same_each_time(folder: Path) -> None:
    models = {name: (folder / f"{name}.onnx").read_bytes() for name in ("encoder", "decoder")}
    packed = pack(graphs.description(), models)
    assert (is_packed(packed), is_packed(models["encoder"])) == (True, False)
    assert unpack(packed) == (graphs.description(), models)
    assert packed == pack(graphs.description(), models)
    weights.write(folder, packed)
    assert weights.join(weights.entry(folder)) == weights.read(weights.entry(folder)) == packed
    assert [file.name for file in weights.files(folder)] == ["driver.json", "encoder.onnx", "decoder.onnx"]


def test_candidates_are_the_best_guesses_together_and_with_one_graph_in_float(folder: Path) -> None:
    class Guesses:
        calibrated = False

        def __init__(self, found: list[Any]) -> None:
            self.found = found
            self.model = onnx.load(folder / "encoder.onnx")

        def graph_candidates(self, policy: Auto) -> list[Any]:
            assert policy.keep_float == ()
            return self.found

    one, two = DynamicInt8(), WeightOnly(8)
    parts: dict[str, Any] = {"encoder": Guesses([one, two]), "decoder": Guesses([two]), "third": Guesses([])}
    conversions = SeveralConversions({}, parts, None)  # type: ignore[arg-type]
    found = [tuple(each.graphs.values()) for each in conversions.candidates(Auto()) if isinstance(each, PerGraph)]
    none = Float32()
    assert found == [(one, two, none), (two, two, none), (none, two, none), (one, none, none)]


def test_what_a_graph_is_asked_is_kept_in_part(folder: Path) -> None:
    models = {"encoder": graphs.encoder(), "decoder": graphs.decoder(cached=True, places=2)}
    description = graphs.description(min_steps=11, whole_prefix=False, states={"present": "past"})
    packed = pack(description, {name: model.SerializeToString() for name, model in models.items()})
    batch = {"source": np.ones((2, 3), np.float32)}
    calls = Recorded(packed).calls([batch, {"source": np.zeros((1, 3), np.float32)}])
    assert [one["past"].shape[:2] for one in calls["decoder"]] == [(n, p) for n in (2, 1) for p in (0, 1, 3, 7)]
    assert [one["source"].shape for one in calls["encoder"]] == [(2, 3), (1, 3)]
    assert open_model(packed).run(["lengths"], batch)[0].tolist() == [12, 12]
