"""The metrics that decide whether a model ships."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Evaluation, MaskHead, TensorSpec, YoloHead
from cdk_inference.model.building.evaluation import boxes
from cdk_inference.model.building.evaluation.data import Samples
from cdk_inference.model.building.evaluation.metrics import Judge, confidences, cosines
from cdk_inference.model.recipe.evaluation import BOX_METRICS, limit, passes

SCORES = arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32))


def specs(**outputs: np.ndarray) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, array.dtype.name, ("batch", *array.shape[1:])) for name, array in outputs.items())


def judge(metric: str, reference: np.ndarray, labels: Any = None, function: Any = None, **options: Any) -> Judge:
    samples = Samples([{"x": np.zeros((len(reference), 1))}], [labels], [None])
    return Judge(Evaluation("d.py:f", metric, **options), samples, [[reference]], specs(y=reference), function)


@given(SCORES, st.sampled_from(["top1_agreement", "top2_agreement", "cosine"]))
def test_a_model_agrees_with_itself(scores: np.ndarray, metric: str) -> None:
    assume(metric == "cosine" or len(set(np.argmax(scores, axis=1))) > 1)
    value, count = judge(metric, scores).score([[scores]])
    assert count == 4
    assert passes(Evaluation("d.py:f", metric, max_drop=0), value, 1.0)


@given(SCORES)
def test_a_model_is_no_error_from_itself(scores: np.ndarray) -> None:
    assert judge("mean_absolute_error", scores).score([[scores]]) == (0.0, 4)


@given(SCORES, SCORES, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_accuracy_counts_as_a_loop_would(scores: np.ndarray, reference: np.ndarray, labels: list[int]) -> None:
    assume(len(set(labels)) > 1)
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
    assert judge("top1_agreement", reference).score([[outputs]]) == (pytest.approx(1 / 3), 3)
    assert judge("top1_agreement", reference, min_confidence=0.9).score([[outputs]]) == (0.5, 2)


def test_probabilities_are_taken_as_they_are() -> None:
    np.testing.assert_allclose(confidences(np.array([[0.7, 0.3], [0.5, 0.5]])), [0.7, 0.5])
    np.testing.assert_allclose(confidences(np.array([[100.0, 0.0], [0.0, 0.0]])), [1.0, 0.5])


def test_every_position_of_a_sequence_counts() -> None:
    reference = np.eye(3)[None].repeat(2, axis=0)  # two samples, three positions, three classes
    outputs = reference.copy()
    outputs[0, 0] = [0, 1, 0]
    assert judge("top1_agreement", reference).score([[outputs]]) == (pytest.approx(5 / 6), 6)
    assert judge("top1_sequence_agreement", reference).score([[outputs]]) == (0.5, 2)


def test_in_whole_sequences_positions_count_of_which_the_float_model_is_sure() -> None:
    reference = np.array([[[9.0, 0.0], [0.1, 0.0]], [[0.0, 9.0], [0.0, 9.0]], [[0.0, 0.1], [0.1, 0.0]]])
    outputs = reference.copy()
    outputs[0, 1] = [0.0, 0.1]  # not sure
    sure = {"min_confidence": 0.9}
    assert judge("top1_sequence_agreement", reference, **sure).score([[outputs]]) == (1.0, 2)
    outputs[1, 1] = [9.0, 0.0]
    assert judge("top1_sequence_agreement", reference, **sure).score([[outputs]]) == (0.5, 2)


def both(metric: str, reference: list[np.ndarray], labels: Any = None) -> Judge:
    samples = Samples([{"x": np.zeros((len(reference[0]), 1))}], [labels], [None])
    return Judge(Evaluation("d.py:f", metric), samples, [reference], specs(one=reference[0], two=reference[-1]))


def test_label_before_probabilities_does_not_hide_them() -> None:
    """As scikit-learn's models have their outputs."""
    label, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)
    other = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32)
    assert both("top1", [label, probabilities], [0, 1, 1]).score([[label, other]]) == (pytest.approx(2 / 3), 3)
    assert both("top1_agreement", [label, probabilities]).score([[label, other]]) == (pytest.approx(2 / 3), 3)


@pytest.mark.parametrize("metric", ["top1", "top1_agreement"])
def test_data_of_one_class_fails(metric: str) -> None:
    scores = np.array([[2.0, 0.0], [3.0, 0.0]])
    with pytest.raises(
        ModelBuildError, match=r"must have two or more classes .* got class 0 alone, .* would pass; add"
    ):
        judge(metric, scores, [0, 0]).score([[scores]])


def detections(seed: int = 0) -> np.ndarray:
    """Return boxes in pixels and scores of 80 classes, (4, 84, 400), of which few are more than noise."""
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 640, (4, 4, 400))
    scores = random.uniform(0, 1e-4, (4, 80, 400))
    for image in range(4):
        scores[image, random.integers(0, 80, 3), random.integers(0, 400, 3)] = random.uniform(0.5, 0.9, 3)
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def test_a_detector_is_judged_by_the_boxes_that_it_finds() -> None:
    """A cosine over boxes and scores that are capped at 0.129 says 0.9999, and nothing is found any more."""
    float32, capped, moved = detections(), detections(), detections()
    capped[:, 4:] = np.minimum(capped[:, 4:], 0.129)
    moved[:2, :2] += 640
    head = YoloHead()
    score = judge("box_f1", float32, head=head).score
    assert score([[float32]]) == (1.0, 4)
    assert score([[capped]]) == (0.0, 4)
    assert 0.3 < score([[moved]])[0] < 0.7
    truth = [boxes.labelled(found) for found in judge("box_f1", float32, head=head).found([[float32]])]
    assert judge("box_f1", capped, truth, head=head).score([[float32]]) == (1.0, 4)
    assert judge("box_f1", float32, truth, head=head).score([[capped]]) == (0.0, 4)
    assert judge("box_f1", capped, head=head, min_confidence=0.1).score([[capped]]) == (1.0, 4)


@pytest.mark.parametrize("metric", ["box_map", "box_map50"])
def test_a_detector_is_judged_by_the_order_of_its_boxes(metric: str) -> None:
    """Average precisions do not see that all scores are halved, which the threshold of an application would."""
    float32, halved, wrong = detections(), detections(), detections()
    halved[:, 4:] /= 2
    wrong[:, 4:] = wrong[:, 4:].max() - wrong[:, 4:]
    head = YoloHead()
    score = judge(metric, float32, head=head).score
    assert score([[float32]]) == (pytest.approx(1.0), 4)
    assert score([[halved]]) == (pytest.approx(1.0), 4)
    assert score([[wrong]])[0] < 0.1
    truth = [boxes.labelled(found) for found in judge(metric, float32, head=head).found([[float32]])]
    assert judge(metric, wrong, truth, head=head).score([[float32]]) == (pytest.approx(1.0), 4)
    assert judge(metric, wrong, truth, head=head, min_confidence=0.5).score([[halved]])[0] == 0.0


def test_boxes_that_are_a_little_off_lower_the_precision_at_strict_overlaps_alone() -> None:
    float32, moved = detections(), detections()
    moved[:, 2:4] *= 1.2  # an overlap of 0.69
    scores = {m: judge(m, float32, head=YoloHead()).score([[moved]])[0] for m in ("box_f1", "box_map", "box_map50")}
    assert scores["box_map50"] > 0.95
    assert 0.3 < scores["box_map"] < 0.5


def test_each_labelled_box_counts_once() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    found = np.array([[*box, 0.9, 0], [*box, 0.8, 0], [*box, 0.7, 1]])
    truth = np.array([[0.0, *box], [0.0, 100, 100, 110, 110]])
    assert boxes.f1([truth], [found]) == pytest.approx(2 * 1 / (2 + 3))


@pytest.mark.parametrize("metric", BOX_METRICS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "must have samples with objects .* never finds any would pass; add"),
        ([[[0, 1, 2, 3]]] * 4, r"must be numbers \(boxes, 5\) for each sample: .*, got int64 \(1, 4\)"),
    ],
)
def test_detections_that_cannot_be_judged_fail(metric: str, labels: Any, message: str) -> None:
    empty = np.zeros((4, 84, 400), np.float32)
    with pytest.raises(ModelBuildError, match=message):
        judge(metric, empty, labels, head=YoloHead()).score([[empty]])


@given(arrays(np.int64, (2, 3, 4), elements=st.integers(0, 3)), arrays(np.int64, (2, 3, 4), elements=st.integers(0, 3)))
def test_masks_are_compared_as_loops_would(expected: np.ndarray, found: np.ndarray) -> None:
    assume(len(np.unique(expected)) > 1)
    shares = []
    for number in range(4):
        pairs = list(zip((expected == number).flat, (found == number).flat, strict=True))
        if any(one or other for one, other in pairs):
            shares.append(sum(one and other for one, other in pairs) / sum(one or other for one, other in pairs))
    scores = np.eye(5, dtype=np.float32)[found].transpose(0, 3, 1, 2)
    value = judge("mean_iou", scores, expected, head=MaskHead()).score([[scores]])[0]
    assert value == pytest.approx(sum(shares) / len(shares))
    assert judge("mean_iou", expected, head=MaskHead()).score([[found]])[0] == pytest.approx(value)
    two, one = (expected > 1).astype(np.int64), (found > 1).astype(np.int64)
    if len(np.unique(two)) > 1:
        value = judge("mean_iou", one, two, head=MaskHead()).score([[one]])[0]
        logits = np.where(one > 0, 0.1, -3).astype(np.float32)
        for channels, axis in (("first", 1), ("last", 3)):
            head, scores = MaskHead(channels=channels, threshold=0.0), np.expand_dims(logits, axis)
            assert judge("mean_iou", scores, two, head=head).score([[scores]])[0] == value
        assert judge("mean_iou", logits, two, head=MaskHead(threshold=0.0)).score([[logits]])[0] == value


def test_pixels_without_a_class_count_nowhere() -> None:
    expected, found = np.array([[[0, 1, 255, -1]]]), np.array([[[0, 1, 0, 1]]])
    assert judge("mean_iou", found, expected, head=MaskHead()).score([[found]]) == (1.0, 1)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (np.array([[[0, 0]]]), "must have pixels of two or more classes"),
        (np.array([[[0, 300]]]), "classes of evaluation batch 0 must be 0 to 254, got 0 to 300"),
        (np.array([[[0, 1, 1]]]), r"must be whole numbers \(1, 1, 2\), .* got int64 \(1, 1, 3\)"),
        (np.array([[[0.0, 1.0]]]), "must be whole numbers"),
    ],
)
def test_masks_that_cannot_be_compared_fail(expected: np.ndarray, message: str) -> None:
    found = np.array([[[0, 1]]])
    with pytest.raises(ModelBuildError, match=message):
        judge("mean_iou", found, expected, head=MaskHead()).score([[found]])


@pytest.mark.parametrize("layout", ["channels first", "channels last", "normalised", "two outputs"])
def test_scores_that_are_lost_behind_large_boxes_fail(layout: str) -> None:
    def arranged(found: np.ndarray) -> list[np.ndarray]:
        boxes, scores = found[:, :4] / (640 if layout == "normalised" else 1), found[:, 4:]
        parts = [boxes, scores] if layout == "two outputs" else [np.concatenate([boxes, scores], axis=1)]
        return [part.transpose(0, 2, 1) if layout == "channels last" else part for part in parts]

    float32, capped = detections(), detections()
    capped[:, 4:] = np.minimum(capped[:, 4:], 0.129)
    random = np.random.default_rng(1)
    sound = float32 * random.normal(1, 0.02, float32.shape).astype(np.float32)
    boxes_off = float32.copy()
    boxes_off[:, :4] += random.normal(0, 200, boxes_off[:, :4].shape)
    reference = arranged(float32)
    score = both("cosine", reference).score
    assert score([arranged(float32)]) == (pytest.approx(1.0), 4)
    assert score([arranged(sound)])[0] > 0.99
    assert score([arranged(capped)])[0] < 0.3
    assert score([arranged(boxes_off)])[0] < 0.95
    pooled = float(np.mean(cosines([arranged(capped)], [reference])))
    assert layout == "normalised" or pooled > 0.9999


@given(arrays(np.float32, (4, 6), elements=st.floats(-10, 10, width=32)), st.floats(-1, 1))
def test_one_output_of_one_scale_has_the_mean_cosine(reference: np.ndarray, error: float) -> None:
    outputs = reference + np.float32(error)
    expected = float(np.mean(cosines([[outputs]], [[reference]])))
    assert judge("cosine", reference).score([[outputs]])[0] == expected


def test_channels_without_finds_are_not_judged_by_their_own_scale() -> None:
    """Noise in float32 becomes other noise in 8 bits, and no decision depends on it."""
    float32 = detections()
    other = float32.copy()
    other[:, 4:] += np.random.default_rng(2).uniform(0, 1e-4, other[:, 4:].shape).astype(np.float32)
    assert judge("cosine", float32).score([[other]])[0] > 0.999


def test_own_metric_gets_outputs_by_name_and_labels() -> None:
    def share(outputs: Any, labels: Any) -> float:
        assert [list(batch) for batch in outputs] == [["y"]]
        return float(np.mean(np.round(outputs[0]["y"][:, 0]) == np.array(labels[0])))

    assert judge("m.py:share", np.ones((4, 1)), [1, 1, 1, 0], share).score([[np.ones((4, 1))]]) == (0.75, 4)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "NoneType$"),
        ("high", "str$"),
        (float("nan"), "nan$"),
        ([1, 2], "list$"),
        ({"top1": 0.9, "f1": 0.8}, "a dict with 'top1', 'f1'; return the one value that decides$"),
    ],
)
def test_own_metric_that_returns_no_number_fails(value: Any, got: str) -> None:
    with pytest.raises(ModelBuildError, match=rf"metric 'm\.py:f' must (return a|be a finite) number, got {got}"):
        judge("m.py:f", np.ones((4, 1)), None, lambda _, __: value).score([[np.ones((4, 1))]])


def test_accuracy_without_labels_fails() -> None:
    with pytest.raises(ModelBuildError, match="metric 'top1' needs labels, got none; yield"):
        judge("top1", np.eye(3)).score([[np.eye(3)]])


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1, -1], [0.0, 1.0, 2.0], [[0], [1], [2]]])
def test_labels_that_are_no_classes_fail(labels: Any) -> None:
    with pytest.raises(ModelBuildError, match=r"labels of evaluation batch 0 must be class numbers from 0 to 2"):
        judge("top1", np.eye(3), labels).score([[np.eye(3)]])


def test_data_that_the_model_is_never_sure_of_fails() -> None:
    with pytest.raises(ModelBuildError, match="must have samples of which the float model is 99% sure, got none"):
        judge("top1_agreement", 0.1 * np.eye(3), min_confidence=0.99).score([[np.eye(3)]])


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 5)])
def test_metric_that_could_not_fail_on_an_output_is_refused(shape: tuple[int, ...]) -> None:
    """One class is always the best, and the right one is always among all of them."""
    metric = "top5_agreement" if shape == (4, 5) else "top1_agreement"
    with pytest.raises(
        ModelBuildError, match=rf"metric '{metric}' needs more than \d classes .*'y'; declare the output with a score"
    ):
        judge(metric, np.ones(shape)).score([[np.ones(shape)]])


def test_outputs_of_another_shape_than_those_of_float32_fail() -> None:
    for metric in ("cosine", "mean_absolute_error"):
        with pytest.raises(ModelBuildError, match="outputs differ in shape from those of float32"):
            judge(metric, np.ones((4, 3))).score([[np.ones((4, 2))]])


def test_own_metric_cannot_change_what_others_are_judged_by() -> None:
    def spoil(outputs: Any, _: Any) -> float:
        outputs[0]["y"].sort()
        return 1.0

    with pytest.raises(ValueError, match="read-only"):
        judge("m.py:f", np.ones((4, 2)), None, spoil).score([[np.ones((4, 2))]])


@given(st.floats(0, 1), st.floats(0, 0.5), st.none() | st.floats(0, 1))
def test_gate_is_the_stricter_of_drop_and_floor(baseline: float, drop: float, floor: float | None) -> None:
    up = limit(Evaluation("d.py:f", max_drop=drop, floor=floor), baseline)
    assert up == pytest.approx(max(baseline - drop, floor if floor is not None else -1), abs=1e-6)
    down = limit(Evaluation("d.py:f", "mean_absolute_error", max_drop=drop, floor=floor), baseline)
    assert down == pytest.approx(min(baseline + drop, floor if floor is not None else 9), abs=1e-6)


@pytest.mark.parametrize(("value", "good"), [(0.95, True), (0.9499999, False), (0.94996, False), (float("nan"), False)])
def test_gate_passes_at_its_limit_and_fails_below(value: float, good: bool) -> None:
    assert passes(Evaluation("d.py:f", "cosine"), value, limit(Evaluation("d.py:f", "cosine"), 1.0)) is good


@pytest.mark.parametrize(("value", "good"), [(0.1, True), (0.1000001, False)])
def test_error_passes_at_its_limit_and_fails_above(value: float, good: bool) -> None:
    assert passes(Evaluation("d.py:f", "mean_absolute_error"), value, 0.1) is good


def test_small_errors_fail_a_small_gate() -> None:
    """Rounded to a few digits after the point, both would be 0."""
    tiny = np.full((4, 3), 1e-5)
    strict = judge("mean_absolute_error", tiny, max_drop=1e-6)
    value, _ = strict.score([[-tiny]])
    assert not passes(strict.evaluation, value, limit(strict.evaluation, 0.0))
