"""The checks that stand between a broken model and production."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, TensorSpec
from cdk_inference.model.build import evaluate
from cdk_inference.model.build.data import check_array

INPUTS = (TensorSpec("x", "float32", ("batch", 2)),)
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)),)
BATCH = {"x": np.zeros((4, 2), np.float32)}


def check(y: np.ndarray) -> None:
    evaluate.check_outputs([y], INPUTS, OUTPUTS, BATCH, "here")


def test_outputs_as_declared_pass() -> None:
    check(np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_fails(bad: float) -> None:
    y = np.zeros((4, 3), np.float32)
    y[2, 1] = bad
    with pytest.raises(ModelBuildError, match="here: output 'y' has 1 of 12 values that are NaN or infinite; fix"):
        check(y)


@pytest.mark.parametrize(
    "y",
    [np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float64), np.zeros((5, 3), np.float32), np.zeros(4, np.float32)],
)
def test_output_unlike_its_declaration_fails(y: np.ndarray) -> None:
    with pytest.raises(ModelBuildError, match=r"here: 'y' is declared as float32 \('batch', 3\), got "):
        check(y)


def test_list_for_an_array_fails() -> None:
    with pytest.raises(ModelBuildError, match=r"got list$"):
        check_array([1, 2], INPUTS[0], "here", {})


SCORES = st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6).map(lambda v: np.array(v).reshape(2, 3))


@given(SCORES)
def test_metrics_of_a_model_with_itself_are_one(scores: np.ndarray) -> None:
    assert evaluate.top1_agreement([scores], [scores]) == 1.0
    assert evaluate.cosine([scores], [scores]) == pytest.approx(1.0)


def test_metrics_see_differences() -> None:
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    wrong = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert evaluate.top1_agreement([wrong], [right]) == 0.5
    assert evaluate.cosine([wrong], [right]) == 0.5


def test_gate_passes_at_its_limit_and_fails_below() -> None:
    right = np.eye(10)
    nine = right.copy()
    nine[0] = np.roll(nine[0], 1)
    metric = evaluate.gate(Evaluation(data="d.py:f", max_drop=0.1), [right], [nine], "static_int8")
    assert (metric.baseline, metric.quantized, metric.gate) == (1.0, 0.9, 0.9)
    with pytest.raises(
        ModelBuildError,
        match=r"the accuracy gate failed: top1_agreement is 0\.900 with static_int8, float32 has 1\.000, "
        r"lowest allowed is 0\.950 \(max_drop=0\.05\); calibrate on .*Float32\(\)",
    ):
        evaluate.gate(Evaluation(data="d.py:f", max_drop=0.05), [right], [nine], "static_int8")


class _Recipe:
    outputs = OUTPUTS


def test_export_that_computes_something_else_fails() -> None:
    y = np.ones((4, 3), np.float32)
    assert evaluate.check_export([y], [y + np.float32(1e-6)], _Recipe) < 1e-5
    with pytest.raises(ModelBuildError, match=r"output 'y' differs by 0\.1, allowed 0\.001; look for"):
        evaluate.check_export([y], [y + np.float32(0.1)], _Recipe)
