"""The checks that stand between a broken model and production."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, ModelRecipe, Provenance, TensorSpec, TorchModule
from cdk_inference.model.building.evaluation import evaluate, measure
from cdk_inference.model.building.evaluation.data import check_array

RECIPE = ModelRecipe(
    name="m",
    source=TorchModule("f.py:build"),
    inputs=(TensorSpec("x", "float32", ("batch", 2)),),
    outputs=(TensorSpec("y", "float32", ("batch", 3)),),
    evaluation=Evaluation("d.py:f"),
    provenance=Provenance("MIT", "here"),
)
BATCH: dict[str, Any] = {"x": np.zeros((4, 2), np.float32)}


def check(y: np.ndarray) -> None:
    evaluate.check_outputs([y], RECIPE, BATCH, "here")


def test_outputs_as_declared_pass() -> None:
    check(np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_fails(bad: float) -> None:
    y = np.zeros((4, 3), np.float32)
    y[2, 1] = bad
    with pytest.raises(ModelBuildError, match="here: output 'y' must be finite, got 1 of 12 values that are not; fix"):
        check(y)


@pytest.mark.parametrize(
    "y",
    [np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float64), np.zeros((5, 3), np.float32), np.zeros(4, np.float32)],
)
def test_output_unlike_its_declaration_fails(y: np.ndarray) -> None:
    with pytest.raises(ModelBuildError, match=r"here: 'y' must be float32 \('batch', 3\), as declared, got "):
        check(y)


def test_list_for_an_array_fails() -> None:
    with pytest.raises(ModelBuildError, match=r"got list$"):
        check_array([1, 2], RECIPE.inputs[0], "here", {})


def test_export_that_computes_something_else_fails() -> None:
    y = np.ones((4, 3), np.float32)
    assert evaluate.check_export([y], [y + np.float32(1e-6)], RECIPE) == 1.0
    with pytest.raises(ModelBuildError, match=r"up to 0\.001, got a difference of 0\.1 in output 'y'; look for"):
        evaluate.check_export([y], [y + np.float32(0.1)], RECIPE)


SHAPES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=2, max_size=2)


@given(st.lists(SHAPES, min_size=1, max_size=12))
def test_outputs_survive_their_file(tmp_path_factory: pytest.TempPathFactory, shapes: list[list[list[int]]]) -> None:
    file = tmp_path_factory.mktemp("outputs") / "outputs.npz"
    outputs = [[np.full(shape, i, np.float32) for i, shape in enumerate(batch)] for batch in shapes]
    evaluate.save_outputs(file, outputs)
    loaded = evaluate.load_outputs(file)
    assert [[a.shape for a in batch] for batch in loaded] == [[a.shape for a in batch] for batch in outputs]


def test_latency_is_measured_on_a_sample_of_the_middling_size() -> None:
    batches = [{"ids": np.zeros((8, n), np.int64)} for n in (64, 4, 16)]
    symbolic, fixed = TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("ids", "int64", (8, "length"))
    assert measure.typical_sample(batches, [symbolic])["ids"].shape == (1, 16)
    assert measure.typical_sample(batches, [fixed])["ids"].shape == (8, 16)
