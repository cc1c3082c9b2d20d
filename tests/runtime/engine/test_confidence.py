"""Confidences: those of the build, which calibrates the threshold, and the same for an item in any batch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdk_inference.model.building.evaluation import metrics
from inference_runtime.engine.confidence import confidences
from inference_runtime.errors import StageError
from inference_runtime.tensors.tensor import Tensor

logits = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.tuples(st.integers(1, 5), st.integers(2, 6)),
    elements=st.floats(-100, 100, width=16),
)


@given(logits)
def test_they_are_those_of_the_build_item_by_item(scores: np.ndarray) -> None:
    assert confidences(Tensor.of(scores)) == [round(float(metrics.confidences(row[None])[0]), 6) for row in scores]


@given(logits, st.integers(0, 4))
def test_the_batch_does_not_matter(scores: np.ndarray, at: int) -> None:
    at %= len(scores)
    assert confidences(Tensor.of(scores[at : at + 1])) == [confidences(Tensor.of(scores))[at]]


def test_probabilities_are_taken_as_they_are_whatever_else_is_in_the_batch() -> None:
    scores = np.array([[0.25, 0.75], [0.4, 0.6004], [5.0, 2.0], [np.nan, 0.5]], np.float32)
    assert confidences(Tensor.of(scores)) == [0.75, 0.6004, 0.952574, 0.0]


def test_probabilities_that_were_rounded_up_are_no_more_than_sure() -> None:
    scores = np.array([[1.001, 0.0]], np.float16)  # a little more than one, within the tolerance
    assert confidences(Tensor.of(scores)) == metrics.confidences(scores).tolist() == [1.0]


def test_what_is_no_number_is_not_sure() -> None:
    scores = np.array([[np.nan, 1], [np.inf, 1], [-np.inf, -np.inf], [-np.inf, 3]])
    assert confidences(Tensor.of(scores)) == [0.0, 0.0, 0.0, 1.0]


def test_an_item_is_as_sure_as_where_it_is_least_so() -> None:
    assert confidences(Tensor.of(np.array([[[9.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 9.0]]]))) == [0.5, 0.952574]


def test_large_scores_take_little_memory() -> None:
    scores = Tensor.of(np.zeros((64, 8, 1000), np.float32))
    tracemalloc.start()
    found = confidences(scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [0.001] * 64
    assert peak < scores.nbytes


@pytest.mark.parametrize("shape", [(3,), (3, 0), ()])
def test_scores_without_classes_fail(shape: tuple[int, ...]) -> None:
    with pytest.raises(StageError, match="confidence needs scores of shape"):
        confidences(Tensor.of(np.zeros(shape)))
