"""The metrics that decide whether a model ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, Metric
from cdk_inference.model.build.data import Samples
from cdk_inference.model.build.metrics import Judge, confidences, limit, passes

SCORES = arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32))


def judge(metric: str, reference: np.ndarray, labels: Any = None, function: Any = None, **options: Any) -> Judge:
    samples = Samples([{"x": np.zeros((len(reference), 1))}], [labels], [None])
    return Judge(Evaluation("d.py:f", metric, **options), samples, [[reference]], ("y",), function)


@given(SCORES, st.sampled_from(["top1_agreement", "top2_agreement", "cosine"]))
def test_a_model_agrees_with_itself(scores: np.ndarray, metric: str) -> None:
    assert judge(metric, scores).score([[scores]]) == (1.0, 4)


@given(SCORES)
def test_a_model_is_no_error_from_itself(scores: np.ndarray) -> None:
    assert judge("mean_absolute_error", scores).score([[scores]]) == (0.0, 4)


@given(SCORES, SCORES, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_accuracy_counts_as_a_loop_would(scores: np.ndarray, reference: np.ndarray, labels: list[int]) -> None:
    for places in (1, 2):
        best = [sorted(range(3), key=lambda c, row=row: -row[c])[:places] for row in scores]
        right = sum(label in row for label, row in zip(labels, best, strict=True)) / 4
        assert judge(f"top{places}", reference, labels).score([[scores]]) == (right, 4)


def test_metrics_see_differences() -> None:
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    wrong = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert judge("top1_agreement", right).score([[wrong]])[0] == 0.5
    assert judge("cosine", right).score([[wrong]])[0] == 0.5
    assert judge("mean_absolute_error", right).score([[wrong]])[0] == 0.5
    assert judge("mean_absolute_error", right, [[2.0, 0.0], [0.0, 2.0]]).score([[right]])[0] == 0.5


def test_only_samples_count_of_which_the_float_model_is_sure() -> None:
    reference = np.array([[5.0, 0.0], [0.1, 0.0], [0.0, 5.0]])
    outputs = np.array([[5.0, 0.0], [0.0, 0.1], [5.0, 0.0]])
    assert judge("top1_agreement", reference).score([[outputs]]) == (round(1 / 3, 4), 3)
    assert judge("top1_agreement", reference, min_confidence=0.9).score([[outputs]]) == (0.5, 2)


def test_probabilities_are_taken_as_they_are() -> None:
    np.testing.assert_allclose(confidences(np.array([[0.7, 0.3], [0.5, 0.5]])), [0.7, 0.5])
    np.testing.assert_allclose(confidences(np.array([[100.0, 0.0], [0.0, 0.0]])), [1.0, 0.5])


def test_every_position_of_a_sequence_counts() -> None:
    reference = np.eye(3)[None].repeat(2, axis=0)  # two samples, three positions, three classes
    outputs = reference.copy()
    outputs[0, 0] = [0, 1, 0]
    assert judge("top1_agreement", reference).score([[outputs]]) == (round(5 / 6, 4), 6)


def test_own_metric_gets_outputs_by_name_and_labels() -> None:
    def share(outputs: Any, labels: Any) -> float:
        assert [list(batch) for batch in outputs] == [["y"]]
        return float(np.mean(np.round(outputs[0]["y"][:, 0]) == np.array(labels[0])))

    assert judge("m.py:share", np.ones((4, 1)), [1, 1, 1, 0], share).score([[np.ones((4, 1))]]) == (0.75, 4)


@pytest.mark.parametrize("value", [None, "high", float("nan"), [1, 2]])
def test_own_metric_that_returns_no_number_fails(value: Any) -> None:
    with pytest.raises(ModelBuildError, match=r"metric 'm\.py:f' (returned|is) "):
        judge("m.py:f", np.ones((4, 1)), None, lambda _, __: value).score([[np.ones((4, 1))]])


def test_accuracy_without_labels_fails() -> None:
    with pytest.raises(ModelBuildError, match="metric 'top1' needs labels: evaluation data must yield"):
        judge("top1", np.eye(3)).score([[np.eye(3)]])


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1, -1], [0.0, 1.0, 2.0], [[0], [1], [2]]])
def test_labels_that_are_no_classes_fail(labels: Any) -> None:
    with pytest.raises(
        ModelBuildError, match=r"labels of evaluation batch 0 are .*, must be class numbers from 0 to 2"
    ):
        judge("top1", np.eye(3), labels).score([[np.eye(3)]])


def test_more_places_than_classes_fail() -> None:
    with pytest.raises(ModelBuildError, match="metric 'top5_agreement' looks at 5 classes, output 'y' has 3"):
        judge("top5_agreement", np.eye(3)).score([[np.eye(3)]])


def test_data_that_the_model_is_never_sure_of_fails() -> None:
    with pytest.raises(
        ModelBuildError, match="no evaluation sample counts: the float model is on none of them 99% sure"
    ):
        judge("top1_agreement", 0.1 * np.eye(3), min_confidence=0.99).score([[np.eye(3)]])


@given(st.floats(0, 1), st.floats(0, 0.5), st.none() | st.floats(0, 1))
def test_gate_is_the_stricter_of_drop_and_floor(baseline: float, drop: float, floor: float | None) -> None:
    up = limit(Evaluation("d.py:f", max_drop=drop, floor=floor), baseline)
    assert up == pytest.approx(max(baseline - drop, floor if floor is not None else -1), abs=1e-6)
    down = limit(Evaluation("d.py:f", "mean_absolute_error", max_drop=drop, floor=floor), baseline)
    assert down == pytest.approx(min(baseline + drop, floor if floor is not None else 9), abs=1e-6)


@pytest.mark.parametrize(("metric", "value", "good"), [("cosine", 0.9, True), ("cosine", 0.8999, False)])
def test_gate_passes_at_its_limit_and_fails_below(metric: str, value: float, good: bool) -> None:
    assert passes(Evaluation("d.py:f", metric), Metric(metric, 1.0, value, 0.9, 10)) is good


@pytest.mark.parametrize(("value", "good"), [(0.1, True), (0.1001, False)])
def test_error_passes_at_its_limit_and_fails_above(value: float, good: bool) -> None:
    metric = Metric("mean_absolute_error", 0.0, value, 0.1, 10)
    assert passes(Evaluation("d.py:f", "mean_absolute_error"), metric) is good
