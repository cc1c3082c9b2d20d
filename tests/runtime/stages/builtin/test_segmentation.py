"""The class of each pixel becomes a PNG in the work bucket, and the share of each class of the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from inference_runtime.errors import RetryableError, StageError
from inference_runtime.stages.builtin import masks
from inference_runtime.stages.builtin.picture import Picture
from inference_runtime.stages.builtin.png import palette_png
from inference_runtime.stages.builtin.segmentation import UNSEEN, segmentation_postprocessor
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Callable

LABELS = ["ground", "road", "tree"]
CLASSES = np.array([[0, 1], [2, 2]])
SCORES = np.eye(3, dtype=np.float32)[CLASSES].transpose(2, 0, 1)


class Bucket:
    """Takes objects."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.error: Exception | None = None

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:  # noqa: N803 - botocore's
        if self.error is not None:
            raise self.error
        assert (Bucket, ContentType) == ("work", "image/png")
        self.objects[Key] = Body


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found = Bucket()
    monkeypatch.setenv("MASKS_ADDRESS", "s3://work/masks")
    monkeypatch.setattr(masks, "client", lambda service: {"s3": found}[service])
    return found


@pytest.fixture
def segment(bucket: Bucket) -> Callable[..., tuple[dict[str, Any], np.ndarray]]:
    def run(
        output: np.ndarray, picture: Picture, axis: int | None = 0, **options: Any
    ) -> tuple[dict[str, Any], np.ndarray]:
        item = Item("id", "b", "k", None, "e", 1, "00", "2026-01-01T00:00:00Z", "m", {"picture": picture.to_json()})
        function = segmentation_postprocessor("y", axis, LABELS, **options)
        prediction = function({"y": output}, item)
        data = bucket.objects[prediction["mask"].removeprefix("s3://work/")]
        image = Image.open(io.BytesIO(data))
        assert image.mode == "P"
        assert image.size == (prediction["width"], prediction["height"])
        return prediction, np.asarray(image)

    return run


def test_a_mask_has_the_size_of_the_picture(segment: Any) -> None:
    whole = Picture(6, 4, (2, 2), (0, 0, 6, 4))
    expected = CLASSES.repeat(2, axis=0).repeat(3, axis=1)
    for output, axis in ((SCORES, 0), (SCORES.transpose(1, 2, 0), 2), (CLASSES, None)):
        prediction, mask = segment(output, whole, axis)
        np.testing.assert_array_equal(mask, expected)
        assert prediction["areas"] == [
            {"label": "tree", "class_index": 2, "share": 0.5},
            {"label": "ground", "class_index": 0, "share": 0.25},
            {"label": "road", "class_index": 1, "share": 0.25},
        ]


def test_one_score_for_each_pixel_tells_two_classes_apart(bucket: Bucket) -> None:
    whole = Picture(2, 2, (2, 2), (0, 0, 2, 2))
    item = Item("id", "b", "k", None, "e", 1, "00", "2026-01-01T00:00:00Z", "m", {"picture": whole.to_json()})
    logits = np.array([[-1.0, 0.0], [0.1, 9.0]], np.float32)
    for values, axis in ((logits, None), (logits[None], 0), (logits[..., None], 2)):
        stage = segmentation_postprocessor("y", axis, ["ground", "road"], threshold=0.0)
        prediction = stage({"y": values}, item)
        image = Image.open(io.BytesIO(bucket.objects[prediction["mask"].removeprefix("s3://work/")]))
        assert np.asarray(image).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(RuntimeError, match="expected one score a pixel"):
        segmentation_postprocessor("y", 0, ["ground", "road"], threshold=0.0)({"y": SCORES}, item)


def test_borders_count_nowhere_and_pixels_that_the_model_did_not_see_have_no_class(segment: Any) -> None:
    """A picture of 4 x 2 with borders above and below, and one of which the model saw the middle."""
    prediction, mask = segment(SCORES, Picture(4, 2, (4, 4), (0, -1, 4, 3)))
    assert mask.tolist() == [[0, 0, 1, 1], [2, 2, 2, 2]]
    assert [each["share"] for each in prediction["areas"]] == [0.5, 0.25, 0.25]
    prediction, mask = segment(SCORES, Picture(4, 2, (2, 2), (1, 0, 3, 2)))
    assert mask.tolist() == [[UNSEEN, 0, 1, UNSEEN], [UNSEEN, 2, 2, UNSEEN]]
    assert [each["share"] for each in prediction["areas"]] == [0.5, 0.25, 0.25]
    prediction, mask = segment(SCORES, Picture(8, 1, (2, 2), (0, 0, 8, 2)), size="model")
    assert mask.tolist() == CLASSES.tolist()
    assert [each["label"] for each in prediction["areas"]] == ["ground", "road"]


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5))), st.integers(1, 4))
def test_png_holds_the_pixels(pixels: np.ndarray, times: int) -> None:
    height, width = pixels.shape
    data = palette_png(width, height * times, ((row.tobytes(), times) for row in pixels), UNSEEN)
    image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(image), pixels.repeat(times, axis=0))
    colours = np.asarray(image.convert("RGBA"))
    for place in np.ndindex(*pixels.shape):
        number, colour = int(pixels[place]), colours[place[0] * times, place[1]]
        # The first of PASCAL VOC are black, dark red, dark green and olive.
        known = {0: (0, 0, 0, 255), 1: (128, 0, 0, 255), 2: (0, 128, 0, 255), 3: (128, 128, 0, 255)}
        known[UNSEEN] = (224, 224, 192, 0)
        assert tuple(colour) == known.get(number, tuple(colour))


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 9),
    st.tuples(st.floats(-50, 50), st.floats(0.5, 90)),
)
def test_every_pixel_is_one_of_the_model_or_unseen(width: int, height: int, count: int, seen: Any) -> None:
    low, extent = seen
    places = Picture(width, height, (9, 9), (low, 0, low + extent, 1)).places(count, axis=0)
    assert len(places) == width
    assert ((places >= -1) & (places < count)).all()
    inside = places[places >= 0]
    assert (np.diff(inside) >= 0).all()


def test_the_same_mask_is_written_once(segment: Any, bucket: Bucket) -> None:
    whole = Picture(2, 2, (2, 2), (0, 0, 2, 2))
    assert segment(SCORES, whole)[0] == segment(CLASSES, whole, None)[0]
    assert len(bucket.objects) == 1


def test_a_bucket_that_does_not_answer_is_not_the_objects_fault(segment: Any, bucket: Bucket) -> None:
    bucket.error = ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")
    with pytest.raises(RetryableError, match="cannot write s3://work/masks/"):
        segment(SCORES, Picture(2, 2, (2, 2), (0, 0, 2, 2)))


def test_outside_of_aws_masks_go_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKS_ADDRESS", (tmp_path / "a folder").as_uri())
    address = masks.mask_writer()(b"a mask")
    assert Path(unquote(address.removeprefix("file://"))).read_bytes() == b"a mask"


@pytest.mark.parametrize("address", ["", "s3://", "https://host/masks", "file://host/masks"])
def test_a_wrong_address_fails(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MASKS_ADDRESS", address)
    with pytest.raises(StageError, match="MASKS_ADDRESS"):
        masks.mask_writer()


@pytest.mark.parametrize(
    ("output", "axis", "message"),
    [
        (np.zeros((4, 2, 2), np.float32), 0, "expected 3 classes on axis 0, one for each label"),
        (np.zeros((2, 2), np.float32), 0, r"has shape \[2, 2\], expected 3 classes"),
        (np.full((2, 2), 3), None, "gives classes 3 to 3, expected 0 to 2"),
        (np.zeros(3, int), None, "expected height and width"),
    ],
)
def test_outputs_of_another_form_fail(segment: Any, output: np.ndarray, axis: int | None, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        segment(output, Picture(2, 2, (2, 2), (0, 0, 2, 2)), axis)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, "there are 0 labels"),
        ({"labels": ["x"] * 256}, "256 labels, expected 1 to 255"),
        ({"size": "thumbnail"}, 'size is "thumbnail"'),
    ],
)
def test_options_that_make_no_sense_fail(bucket: Bucket, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation_postprocessor(**{"output": "y", "axis": 0, "labels": LABELS, **options})
