"""A vector is named by the closest of those that stand for labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.nearest import nearest_postprocessor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = ["a photo of a cat", "a photo of a dog", "a photo of an emu"]
VECTORS = np.array([[2, 0, 0], [0, 0.5, 0], [1, 1, 0]], np.float32)


@pytest.fixture
def nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))

    def make(vectors: np.ndarray = VECTORS, **options: Any) -> Callable[[Any], dict[str, Any]]:
        np.save(tmp_path / "p.npy", vectors)
        function = nearest_postprocessor("p.npy", **{"labels": LABELS, **options})
        return lambda vector: function({"y": np.asarray(vector)}, None)

    return make


def test_the_closest_label_comes_first_however_long_the_vectors_are(nearest: Callable[..., Any]) -> None:
    found = nearest()(np.array([0, 7, 0], np.float16))
    assert (found["label"], found["class_index"], found["similarity"]) == (LABELS[1], 1, 1)
    assert [each["class_index"] for each in found["top"]] == [1, 2, 0]
    assert [each["score"] for each in found["top"]] == pytest.approx([1, 0.5**0.5, 0])
    assert len(nearest(top=1)([0.0, 1, 0])["top"]) == 1
    assert nearest(labels=None)([0.0, 1, 0])["label"] == "1"


def test_a_scale_makes_scores_that_sum_up_to_1(nearest: Callable[..., Any]) -> None:
    found = nearest(scale=100)([1.0, 0.9, 0])
    assert found["label"] == LABELS[2]
    assert sum(each["score"] for each in found["top"]) == pytest.approx(1)
    similarities = np.array([each["similarity"] for each in found["top"]])
    expected = np.exp(100 * similarities) / np.exp(100 * similarities).sum()
    assert [each["score"] for each in found["top"]] == pytest.approx(expected.tolist())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arrays(np.float32, 3, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_any_vector_has_a_label_unless_it_has_no_direction(nearest: Callable[..., Any], vector: np.ndarray) -> None:
    name = nearest()
    if not vector.any():
        with pytest.raises(RejectItem, match="all zeros"):
            name(vector)
        return
    found = name(vector)
    directions = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    assert found["similarity"] == pytest.approx(max(directions @ (vector / np.linalg.norm(vector.astype(float)))))
    assert all(-1 <= each["similarity"] <= 1 for each in found["top"])


def test_a_vector_of_another_length_fails(nearest: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=r"has shape \[2\], expected"):
        nearest()([1.0, 2.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is 0"),
        ({"labels": ["a"]}, "a vector for each label"),
        ({"vectors": np.zeros((3, 2))}, "a vector of zeros"),
        ({"vectors": np.full((3, 2), np.nan)}, "not finite"),
    ],
)
def test_options_that_make_no_sense_fail(nearest: Callable[..., Any], options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(**options)
