"""Two models' answers to the same objects, as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference_runtime.releases.agreement import disagreement
from inference_runtime.releases.comparison import Comparison, answers_of

SCORES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(6, 8)), elements=st.floats(-10, 10, width=32)
)
TOP1 = Comparison("top1_agreement", 0.0, 2.0)
A, B = [np.array([3.0, 1.0], np.float32)], [np.array([1.0, 3.0], np.float32)]
NAN = [np.array([np.nan, 1.0], np.float32)]


def counted(
    stable: Any, candidate: Any, *, ms: tuple[float, float] = (10, 15), comparison: Comparison = TOP1
) -> dict[str, float]:
    counts = comparison.counts(stable, candidate, stable_ms=ms[0], candidate_ms=ms[1])
    return {name: count for name, count in counts.items() if count}


@given(scores=SCORES, metric=st.sampled_from(["top1_agreement", "top5_agreement", "cosine"]))
def test_a_model_agrees_with_itself(scores: Any, metric: str) -> None:
    assert disagreement([scores], [scores], metric=metric) == pytest.approx(0, abs=1e-6)


@given(one=SCORES, other=SCORES, metric=st.sampled_from(["top1_agreement", "top5_agreement", "cosine"]))
def test_any_two_answers_are_apart_by_zero_to_one(one: Any, other: Any, metric: str) -> None:
    found = disagreement([one], [other], metric=metric)
    assert found is not None
    assert 0 <= found <= 1


def test_disagreement_is_what_is_missing_to_the_metric_of_the_gate() -> None:
    from cdk_inference.model.building.evaluation.metrics import Judge
    from cdk_inference.model.recipe.evaluation import Evaluation
    from cdk_inference.model.recipe.tensors import TensorSpec

    random = np.random.default_rng(3)
    stable = random.normal(size=(64, 10)).astype(np.float32)
    candidate = stable + random.normal(size=stable.shape, scale=0.6).astype(np.float32)
    samples = type("Samples", (), {"labelled": False, "labels": [None], "sizes": [64]})()
    outputs = (TensorSpec("scores", "float32", ("batch", 10)),)
    for metric in ("top1_agreement", "top5_agreement", "cosine"):
        judge = Judge(Evaluation(data="data.py:evaluation", metric=metric), samples, [[stable]], outputs)
        apart = [disagreement([one], [other], metric=metric) for one, other in zip(stable, candidate, strict=True)]
        assert 1 - np.mean(apart) == pytest.approx(judge.score([[candidate]])[0], abs=1e-6)  # type: ignore[arg-type]


def test_where_the_stable_model_is_unsure_nothing_is_told() -> None:
    assert (
        disagreement([np.array([0.5, 0.5])], [np.array([0.1, 0.9])], metric="top1_agreement", min_confidence=0.9)
        is None
    )
    assert (
        disagreement([np.array([9.0, 0.0])], [np.array([0.1, 0.9])], metric="top1_agreement", min_confidence=0.9) == 1
    )


@pytest.mark.parametrize("metric", ["top1_agreement", "cosine"])
def test_outputs_of_other_shapes_disagree(metric: str) -> None:
    assert disagreement([np.ones(3)], [np.ones(4)], metric=metric) == 1


def test_answers_are_counted_by_what_became_of_them() -> None:
    same = counted({"a": A, "b": B}, {"a": A, "b": A})
    assert same == {"objects": 2, "answered": 2, "disagreement": 1, "timed": 1}
    assert counted({"a": A}, {"a": None}) == {"objects": 1, "candidate_errors": 1}
    assert counted({"a": None}, {"a": A}) == {"objects": 1, "stable_errors": 1}
    assert counted({"a": None}, {"a": None}) == {"objects": 1}
    assert counted({"a": A}, {}) == {}  # to be read again


def test_what_is_not_a_number_is_an_error_and_no_agreement() -> None:
    found = counted({"a": A}, {"a": NAN})
    assert found == {"objects": 1, "candidate_errors": 1, "answered": 1, "disagreement": 1, "timed": 1}
    assert counted({"a": NAN}, {"a": A}) == {"objects": 1, "stable_errors": 1}
    assert counted({"a": NAN}, {"a": NAN}) == {"objects": 1}


def test_a_batch_that_the_candidate_does_not_survive_counts_once() -> None:
    assert counted({"a": A, "b": B}, None) == {"objects": 1, "candidate_errors": 1}


def test_a_batch_tells_which_model_is_slower() -> None:
    assert "slow" not in counted({"a": A}, {"a": A}, ms=(10, 20))
    assert counted({"a": A}, {"a": A}, ms=(10, 21))["slow"] == 1


def test_answers_are_found_by_message() -> None:
    arm = {"items": [{"message_id": "a"}, {"message_id": "b"}], "failed": [{"message_id": "c"}]}
    assert answers_of(arm, {1: A}) == {"a": None, "b": A, "c": None}
