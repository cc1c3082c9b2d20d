"""Explanations are measured with the deployed model, and those that are not better than random ones are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cdk_inference import Explain, ModelArtifact, Preprocess
from cdk_inference.errors import ModelBuildError
from cdk_inference.explanations import measuring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPE = """
from cdk_inference.model import Evaluation, Float32, ModelRecipe, OnnxFile, Provenance, TensorSpec

RECIPE = ModelRecipe(
    name={name!r},
    source=OnnxFile("model.onnx"),
    inputs=(TensorSpec("x", {dtype!r}, ("batch", *{shape})),),
    outputs=(TensorSpec("y", "float32", ("batch", *{outputs})),),
    precision=Float32(),
    {calibration}
    evaluation=Evaluation(data="data.py:evaluation", metric={metric!r}),
    provenance=Provenance(license="CC0-1.0", origin="made for these tests"),
)
"""
DATA = """
import numpy as np

def batches(seed, count):
    random = np.random.default_rng(seed)
    for _ in range(2):
        yield {{"x": random.uniform(0, 200, (count, *{shape})).astype({dtype!r})}}

def calibration():
    return batches(1, 64)

def evaluation():
    return batches(2, 24)
"""
WEIGHTS = np.array([[3, -1], [-2, 2], [0.5, 0], [0, 0.1], [1, 1]]) / 100


def linear(shape: tuple[int, ...], weights: np.ndarray, dtype: str) -> onnx.ModelProto:
    """Return a model that flattens its input, and multiplies it with weights."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def artifact(tmp_path: Path, cache: Path) -> Callable[..., ModelArtifact]:
    """Return a linear model, built."""

    def build(
        name: str,
        shape: tuple[int, ...],
        weights: np.ndarray,
        *,
        dtype: str = "float32",
        metric: str = "cosine",
        calibrated: bool = True,
        data: str = DATA,
    ) -> ModelArtifact:
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(linear(shape, weights, dtype), folder / "model.onnx")
        facts = {"name": name, "shape": shape, "dtype": dtype, "outputs": (weights.shape[1],), "metric": metric}
        calibration = 'calibration="data.py:calibration",' if calibrated else ""
        (folder / "recipe.py").write_text(RECIPE.format(**facts, calibration=calibration))
        (folder / "data.py").write_text(data.format(**facts))
        stack = cdk.Stack(cdk.App(), "Stack")
        return ModelArtifact(stack, "Model", recipe=folder / "recipe.py", cache_dir=cache)

    return build


def settings_of(explain: Explain, model: ModelArtifact) -> tuple[dict[str, Any], Any]:
    found = explain.bind(model, Preprocess.tensor())
    return json.loads(found.files["explanation.json"]), found


def test_a_row_hides_features_by_the_mean_of_the_calibration_data(
    artifact: Callable[..., ModelArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = artifact("rows", (5,), WEIGHTS, metric="top1_agreement")
    settings, found = settings_of(Explain.when(confidence_below=0.9), model)
    random = np.random.default_rng(1)
    means = np.concatenate([random.uniform(0, 200, (64, 5)) for _ in range(2)]).astype(np.float32).mean(axis=0)
    assert settings["options"]["fill"] == pytest.approx(means, rel=1e-3)
    figures = found.figures
    assert figures.runs == 1 + 2**5
    assert figures.deletion < figures.random < figures.insertion
    assert 0 < figures.bound < figures.insertion - figures.deletion
    assert figures.samples == 24
    assert 0 < found.share < 1  # of the samples that the model is less sure of
    assert settings_of(Explain.always(), model)[1].share == 1

    card = model.path.with_name("card.md").read_text()
    assert (
        f"| shapley | mean | {figures.deletion:.3f} | {figures.insertion:.3f} | {figures.random:.3f} | 33.0 |" in card
    )
    assert "<h2>Explanations</h2>" in model.path.with_name("card.html").read_text()

    # Measured once: a second synth runs nothing.
    monkeypatch.setattr("cdk_inference.model.measurement.run_build", None)
    assert settings_of(Explain.when(confidence_below=0.9), model)[1].figures == figures


def test_a_picture_and_a_number_are_measured_too(artifact: Callable[..., ModelArtifact]) -> None:
    weights = np.zeros((8, 8, 2))
    weights[2, 5], weights[3, 5] = [0.05, -0.05], [-0.05, 0.05]
    picture = artifact("picture", (8, 8), weights.reshape(64, 2), dtype="uint8", metric="top1_agreement")
    for explain in (Explain.always(), Explain.always(method="rise", masks=300, baseline="zero")):
        settings, found = settings_of(explain, picture)
        assert found.figures.bound > 0
        assert settings["options"]["fill"] == ([0] if explain.baseline == "zero" else [100])
    number = artifact("number", (5,), WEIGHTS[:, :1], metric="mean_absolute_error", calibrated=False)
    settings, found = settings_of(Explain.always(), number)
    assert settings["target"] == "number"
    assert found.figures.bound > 0


def test_a_record_of_strings_and_missing_numbers_is_measured(tmp_path: Path, cache: Path) -> None:
    nodes = [
        helper.make_node("Equal", ["colour", "red"], ["is_red"]),
        helper.make_node("Cast", ["is_red"], ["redness"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["age"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "age"], ["known"]),
        helper.make_node("Concat", ["redness", "known"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "weights"], ["y"]),
    ]
    inputs = [("colour", TensorProto.STRING), ("age", TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "record",
        [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor("red", TensorProto.STRING, [1], [b"red"]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("weights", TensorProto.FLOAT, [2, 2], [3.0, -3.0, -0.1, 0.1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    facts = {"name": "record", "shape": (), "dtype": "", "outputs": (2,), "metric": "top1_agreement", "calibration": ""}
    x = 'TensorSpec("x", \'\', ("batch", *())),'
    both = 'TensorSpec("colour", "string", ("batch", 1)), TensorSpec("age", "float32", ("batch", 1), nan=True),'
    recipe = RECIPE.format(**facts)
    assert x in recipe
    (tmp_path / "recipe.py").write_text(recipe.replace(x, both))
    (tmp_path / "data.py").write_text(
        "import numpy as np\n\ndef evaluation():\n"
        "    age = np.arange(24, dtype=np.float32)[:, None]\n"
        "    colour = np.array([['red'], ['blue'], ['blue'], ['green']] * 6)\n"
        "    yield {'colour': colour, 'age': np.where(age == 7, np.nan, age).astype(np.float32)}\n"
    )
    artifact = ModelArtifact(cdk.Stack(cdk.App(), "Stack"), "Model", recipe=tmp_path / "recipe.py", cache_dir=cache)
    settings, found = settings_of(Explain.always(), artifact)
    assert settings["options"]["fill"] == ["blue", pytest.approx((24 * 23 / 2 - 7) / 23, rel=1e-3)]
    assert found.figures.bound > 0


@pytest.mark.parametrize(
    ("values", "common", "zero", "expected"),
    [
        ([1.0, 2.0, np.nan, 6.0], False, False, 3.0),
        ([np.nan, np.nan], False, False, 0.0),
        ([1.0, 2.0], False, True, 0.0),
        ([3.0, 1.0, 3.0], True, False, 3.0),
        ([1, 2, 4], False, False, 2),
        (["b", "a", "b"], True, False, "b"),
        (["b", "a"], True, True, ""),
    ],
)
def test_a_feature_is_hidden_by_its_mean_or_its_most_frequent_value(
    values: list[Any], common: bool, zero: bool, expected: float | str
) -> None:
    assert measuring._value(np.array(values), common=common, zero=zero) == expected


def test_explanations_that_are_no_better_than_random_ones_fail(artifact: Callable[..., ModelArtifact]) -> None:
    """The model answers the same to each picture."""
    alike = artifact("alike", (8, 8), np.zeros((64, 2)), dtype="uint8")
    message = (
        r"explanations of model 'alike' must be more faithful than random ones, got a deletion of .* and an insertion "
        r"of .* by occlusion over 24 samples, where random orders have .*; try method='rise' or baseline='zero', or "
        r"leave explain out"
    )
    with pytest.raises(ModelBuildError, match=message):
        Explain.always().bind(alike, Preprocess.tensor())


def test_too_few_samples_fail(artifact: Callable[..., ModelArtifact]) -> None:
    few = DATA.replace("batches(2, 24)", "batches(2, 1)")
    model = artifact("few", (5,), WEIGHTS, metric="cosine", data=few)
    with pytest.raises(ModelBuildError, match=r"evaluation.data must have 4 samples of several parts or more .* got 2"):
        Explain.always().bind(model, Preprocess.tensor())


def test_a_model_of_a_registry_fails(artifact: Callable[..., ModelArtifact]) -> None:
    model = artifact("pulled", (5,), WEIGHTS)
    model.project = None
    with pytest.raises(
        ModelBuildError, match=r"must measure its model on the data of a recipe, got 'pulled' from a reg"
    ):
        Explain.always().bind(model, Preprocess.tensor())


def test_areas_are_those_of_the_trapezoid_rule() -> None:
    curve = [1.0, 0.5, 0.25, 0.0, 0.0]
    assert measuring._area(curve) == pytest.approx(np.trapezoid(curve, dx=0.25))


def test_the_bound_is_that_of_students_t() -> None:
    from scipy import stats

    gaps = np.random.default_rng(0).normal(0.3, 0.2, 12)
    expected = gaps.mean() - stats.t.ppf(0.95, 11) * gaps.std(ddof=1) / np.sqrt(12)
    assert measuring._bound(gaps.tolist()) == pytest.approx(expected, abs=1e-3)
