"""Classifiers' outputs become labels with scores that are probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.stages.builtin.classification import classification_postprocessor
from inference_runtime.stages.builtin.outputs import outputs_postprocessor

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ["cat", "dog", "emu"]


def classify(values: Any, **options: Any) -> dict[str, Any]:
    return classification_postprocessor(**{"labels": LABELS, **options})({"y": np.array(values, np.float32)}, None)


def test_softmax() -> None:
    result = classify([0, np.log(6), np.log(3)])
    assert (result["label"], result["class_index"]) == ("dog", 1)
    assert result["score"] == pytest.approx(0.6)
    assert [(entry["label"], entry["class_index"]) for entry in result["top"]] == [("dog", 1), ("emu", 2), ("cat", 0)]
    assert [entry["score"] for entry in result["top"]] == pytest.approx([0.6, 0.3, 0.1])


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_scores_are_probabilities_whatever_the_logits(logits: list[float]) -> None:
    function = classification_postprocessor(top=20)
    result = function({"y": np.array(logits, np.float32)}, None)
    scores = [entry["score"] for entry in result["top"]]
    assert all(type(score) is float and 0 <= score <= 1 for score in scores)
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert logits[result["class_index"]] == max(logits)


def test_half_precision_and_integers_are_fine() -> None:
    for dtype in (np.float16, np.int8, np.uint8):
        result = classification_postprocessor(LABELS)({"y": np.array([0, 100, 0], dtype)}, None)
        assert result["label"] == "dog"
        assert result["score"] == pytest.approx(1)


def test_of_equal_scores_the_lower_index_comes_first() -> None:
    assert [entry["class_index"] for entry in classify([5, 5, 5])["top"]] == [0, 1, 2]


def test_top_is_cut() -> None:
    assert len(classify([1, 2, 3], top=2)["top"]) == 2
    assert len(classify([1, 2, 3], top=50)["top"]) == 3


def test_probabilities_pass() -> None:
    assert classify([0.25, 0.5, 0.25], activation="none")["score"] == 0.5
    assert classify([0, 1.0001, 0], activation="none")["score"] == 1


def test_logits_taken_for_probabilities_fail() -> None:
    with pytest.raises(RuntimeError, match='use activation="softmax"'):
        classify([-3, 8, 1], activation="none")


def test_classes_that_do_not_exclude_each_other() -> None:
    result = classify([0, np.log(3), -1e4], activation="sigmoid")
    assert [(entry["label"], entry["score"]) for entry in result["top"]] == [
        ("dog", pytest.approx(0.75)),
        ("cat", 0.5),
        ("emu", 0),
    ]


@pytest.mark.parametrize("values", [[0.2], 0.2])
def test_one_score_tells_two_classes_apart(values: Any) -> None:
    pair = ["no", "yes"]
    result = classify(values, labels=pair, activation="none")
    assert [(entry["label"], entry["score"]) for entry in result["top"]] == [
        ("no", pytest.approx(0.8)),
        ("yes", pytest.approx(0.2)),
    ]
    result = classify([np.log(3)], labels=pair, activation="sigmoid")
    assert (result["label"], result["class_index"], result["score"]) == ("yes", 1, pytest.approx(0.75))
    with pytest.raises(RuntimeError, match="2 classes, one for each label"):
        classify(values, labels=pair)


def test_labels_from_a_file_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.txt").write_text("Katze\nmännlicher Hund\nEmu\n", encoding="utf-8")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    assert classify([0, 9, 0], labels=None, labels_file="labels.txt")["label"] == "männlicher Hund"


def test_without_labels_the_index_is_the_label() -> None:
    assert classify([0, 9, 0], labels=None)["label"] == "1"


@pytest.mark.parametrize("values", [[1, 2], [1, 2, 3, 4], [[1, 2, 3]], 3.0])
def test_another_number_of_classes_fails_as_a_defect(values: Any) -> None:
    with pytest.raises(RuntimeError, match="3 classes, one for each label"):
        classify(values)


def test_one_of_several_outputs_must_be_named() -> None:
    outputs = {"y": np.array([0, 1, 0]), "features": np.zeros(9)}
    assert classification_postprocessor(LABELS, output="y")(outputs, None)["label"] == "dog"
    with pytest.raises(RuntimeError, match=r"returns .'features', 'y'.: name one of them"):
        classification_postprocessor(LABELS)(outputs, None)
    with pytest.raises(RuntimeError, match="output is 'z'"):
        classification_postprocessor(LABELS, output="z")(outputs, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top": 0}, "top is 0"),
        ({"activation": "relu"}, 'activation is "relu"'),
        ({"labels": LABELS, "labels_file": "labels.txt"}, "labels and labels_file"),
    ],
)
def test_wrong_options_fail_and_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        classification_postprocessor(**options)


def test_a_missing_labels_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"labels\.txt"):
        classification_postprocessor(labels_file="labels.txt")


def test_outputs_are_stored_as_they_are() -> None:
    outputs = {"boxes": np.array([[1, 2], [3, 4]], np.int32), "score": np.array(0.5, np.float32)}
    assert outputs_postprocessor()(outputs, None) == {"boxes": [[1, 2], [3, 4]], "score": 0.5}
