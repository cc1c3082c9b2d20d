"""Detectors' outputs become labelled boxes in the picture, the same ones by which the build judges a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdk_inference.model import DetrHead, EndToEndHead, NmsHead, TensorSpec, YoloHead
from cdk_inference.model.building.evaluation import boxes as evaluation
from inference_runtime.errors import StageError
from inference_runtime.stages.builtin.boxes import reader_of
from inference_runtime.stages.builtin.detection import detection_postprocessor
from inference_runtime.stages.builtin.picture import Picture
from inference_runtime.stages.item import Item

LABELS = ["cat", "dog", "emu"]
SIDE = 100
WHOLE = Picture(SIDE, SIDE, (SIDE, SIDE), (0, 0, SIDE, SIDE))


def item(picture: Picture | None = WHOLE) -> Item:
    kept = {} if picture is None else {"picture": picture.to_json()}
    return Item("id", "bucket", "key", None, "etag", 1, "00", "2026-01-01T00:00:00Z", "message", kept)


def specs(outputs: dict[str, np.ndarray]) -> list[TensorSpec]:
    return [TensorSpec(name, array.dtype.name, ("batch", *array.shape)) for name, array in outputs.items()]


def detect(outputs: dict[str, np.ndarray], head: Any = None, picture: Picture = WHOLE, **options: Any) -> Any:
    layout = (head or YoloHead()).layout(specs(outputs))
    function = detection_postprocessor(layout.head, LABELS, normalized=layout.normalized, **options)
    return function(outputs, item(picture))


def yolo(*rows: list[float], places: int = 20) -> dict[str, np.ndarray]:
    """Return the output (4 + classes, places) with these rows first."""
    found = np.zeros((7, places), np.float32)
    found[:, : len(rows)] = np.array(rows).T
    return {"output0": found}


# Centre, size and three scores; the second overlaps the first, and the third too, but is another class.
CAT, ALSO_CAT, DOG = [50, 40, 20, 10, 0.9, 0.1, 0], [51, 40, 20, 10, 0.8, 0, 0], [50, 41, 20, 10, 0, 0.7, 0]


def test_boxes_of_a_yolo() -> None:
    found = detect(yolo(ALSO_CAT, CAT, DOG, [9, 9, 9, 9, 0.2, 0.2, 0.2]))
    assert found == {
        "detections": [
            {"label": "cat", "class_index": 0, "score": pytest.approx(0.9), "box": [40, 35, 60, 45]},
            {"label": "dog", "class_index": 1, "score": pytest.approx(0.7), "box": [40, 36, 60, 46]},
        ],
        "count": 2,
    }
    assert detect(yolo(CAT, ALSO_CAT), YoloHead(iou=1))["count"] == 2
    assert detect(yolo(CAT, ALSO_CAT, DOG), min_score=0.75)["count"] == 1
    assert detect(yolo(CAT, ALSO_CAT, DOG), max_detections=1)["detections"][0]["label"] == "cat"


def test_every_head_says_the_same() -> None:
    corners = np.array([[40, 35, 60, 45], [0, 0, 0, 0]], np.float32)
    forms = {
        YoloHead(): yolo(CAT),
        YoloHead(output="rows"): {"rows": yolo(CAT)["output0"].T, "other": np.zeros(3, np.float32)},
        YoloHead(objectness=True): {"y": np.insert(yolo(CAT)["output0"], 4, 1, axis=0).T},
        YoloHead(normalized=True): yolo([0.5, 0.4, 0.2, 0.1, 0.9, 0, 0]),
        EndToEndHead(): {"y": np.concatenate([corners, [[0.9, 0], [0, 0]]], axis=1).astype(np.float32)},
        NmsHead(corners="yxyx", normalized=True, first_class=1): {
            "boxes": corners[:, [1, 0, 3, 2]] / SIDE,
            "scores": np.array([0.9, 0], np.float32),
            "labels": np.array([1, 0], np.float32),
        },
        DetrHead(): {
            "logits": np.log(np.array([[0.9, 0.02, 0.03, 0.05], [0.01, 0.01, 0.01, 0.97]], np.float32)),
            "pred_boxes": np.array([[0.5, 0.4, 0.2, 0.1]] * 2, np.float32),
        },
        DetrHead(activation="sigmoid"): {
            "logits": np.array([[np.log(9), -5, -5], [-1000, -1000, -1000]], np.float32),
            "pred_boxes": np.array([[0.5, 0.4, 0.2, 0.1]] * 2, np.float32),
        },
    }
    for head, outputs in forms.items():
        ((one,), count) = detect(outputs, head).values()
        assert (one["label"], count) == ("cat", 1), head
        assert one["score"] == pytest.approx(0.9, abs=1e-6), head
        assert one["box"] == pytest.approx([40, 35, 60, 45], abs=0.01), head


def test_boxes_lie_in_the_picture() -> None:
    """A picture of 400 x 200 pixels with borders above and below, in a model of 100 x 100."""
    padded = Picture(400, 200, (SIDE, SIDE), (0, -100, 400, 300))
    found = detect(
        yolo([50, 50, 20, 10, 0.9, 0, 0], [5, 30, 30, 30, 0.8, 0, 0], [50, 5, 9, 9, 0.7, 0, 0]), None, padded
    )
    assert [each["box"] for each in found["detections"]] == [[160, 80, 240, 120], [0, 0, 80, 80]]


def test_a_box_in_the_border_takes_the_place_of_none_in_the_picture() -> None:
    """A border of 25 rows is above the picture. The best box is in it, and overlaps one of its class."""
    padded = Picture(400, 200, (SIDE, SIDE), (0, -100, 400, 300))
    border, picture = [50, 15, 20, 20, 0.9, 0, 0], [50, 16, 20, 20, 0.8, 0, 0]
    corners = {"y": np.array([[40, 5, 60, 25, 0.9, 0], [40, 6, 60, 26, 0.8, 0]], np.float32)}
    for outputs, head in ((yolo(border, picture), None), (corners, EndToEndHead())):
        ((one,), _) = detect(outputs, head, padded, max_detections=1).values()
        assert (one["score"], one["box"]) == (pytest.approx(0.8), [160, 0, 240, 4])


def all_visible(corners: np.ndarray) -> np.ndarray:
    return np.ones(len(corners), bool)


numbers = st.one_of(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(-5, 120, width=32), st.just(0.0))


@given(arrays(np.float32, (4, 12), elements=numbers), arrays(np.float32, (3, 12), elements=st.floats(0, 1, width=32)))
def test_whatever_a_yolo_says_boxes_are_in_the_picture_and_those_of_the_gate(
    sides: np.ndarray, scores: np.ndarray
) -> None:
    outputs = {"y": np.concatenate([sides, scores])}
    found = detect(outputs, min_score=0.1, max_detections=5)
    assert found["count"] == len(found["detections"]) <= 5
    listed = [each["score"] for each in found["detections"]]
    assert listed == sorted(listed, reverse=True)
    for each in found["detections"]:
        left, top, right, bottom = each["box"]
        assert 0 <= left <= right <= SIDE
        assert 0 <= top <= bottom <= SIDE
    layout = YoloHead().layout(specs(outputs))
    ours = reader_of(layout.head)(outputs, 0.1, evaluation.MOST, all_visible)
    judged = evaluation.find(outputs, layout, 0.1)
    np.testing.assert_array_equal(np.column_stack([*ours]), judged)


@given(
    arrays(np.float32, (6, 4), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    arrays(np.float32, (6, 4), elements=st.floats(-1000, 1000, width=32)),
    st.sampled_from(["softmax", "sigmoid"]),
)
def test_the_gate_reads_queries_as_the_stage_does(corners: np.ndarray, logits: np.ndarray, activation: Any) -> None:
    outputs = {"logits": logits, "pred_boxes": corners}
    layout = DetrHead(activation=activation).layout(specs(outputs))
    ours = reader_of(layout.head)(outputs, 0.25, evaluation.MOST, all_visible)
    np.testing.assert_array_equal(np.column_stack([*ours]), evaluation.find(outputs, layout, 0.25))
    rows = {"y": np.concatenate([corners, np.clip(logits[:, :1], 0, 1), np.abs(logits[:, 1:2])], axis=1)}
    layout = EndToEndHead().layout(specs(rows))
    ours = reader_of(layout.head)(rows, 0.25, evaluation.MOST, all_visible)
    np.testing.assert_array_equal(np.column_stack([*ours]), evaluation.find(rows, layout, 0.25))


def test_of_thousands_of_candidates_the_best_remain() -> None:
    random = np.random.default_rng(0)
    output = np.concatenate([random.uniform(5, 95, (4, 8400)), random.uniform(0.3, 1, (3, 8400))]).astype(np.float32)
    found = detect({"y": output}, min_score=0.3)["detections"]
    assert len(found) <= 100
    assert found[0]["score"] == pytest.approx(float(output[4:].max()))


@pytest.mark.parametrize(
    ("outputs", "head", "message"),
    [
        (yolo([1, 1, 1, 1, 8, 0, 0]), {}, "scores are not in"),
        ({"y": np.zeros((3, 2, 2), np.float32)}, {}, r"names the output 'output0', but the model returns \['y'\]"),
        ({"output0": np.zeros(3, np.float32)}, {}, r"has shape \[3\], expected 2 axes"),
        (yolo([1, 1, 9, 9, 0.9, 7, 0]), {"kind": "end_to_end", "output": "output0"}, "found class 7, expected 0 to 2"),
    ],
)
def test_a_head_that_does_not_fit_the_model_fails(
    outputs: dict[str, np.ndarray], head: dict[str, Any], message: str
) -> None:
    if head:
        outputs = {"output0": outputs["output0"][:6].T}
    usual = YoloHead().layout(specs(yolo(CAT))).head
    with pytest.raises(RuntimeError, match=message):
        detection_postprocessor(head or usual, LABELS)(outputs, item())


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"picture": None},
        {"picture": {"width": 1, "height": 1, "input": [1], "region": [0, 0, 1, 1]}},
        {"picture": {"width": 1, "height": 1, "input": [1, 1], "region": [0, 0, 1]}},
        {"picture": {"width": 0, "height": 1, "input": [1, 1], "region": [0, 0, 1, 1]}},
    ],
)
def test_without_the_picture_there_are_no_boxes(kept: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="preprocess kept"):
        Picture.of(kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 0}, "min_score is 0"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"head": {"kind": "ssd"}}, "head.kind is 'ssd', expected one of yolo"),
        ({"labels": ["a"], "labels_file": "b"}, "both given"),
    ],
)
def test_options_that_make_no_sense_fail(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_postprocessor(**{"head": {"kind": "yolo"}, **options})
