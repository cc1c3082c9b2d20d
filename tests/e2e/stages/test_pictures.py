"""A model that finds red and green squares, from the picture to the row."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

RED, GREEN = (128, 0, 256, 128), (384, 128, 512, 256)
"""Left, top, right and bottom edge of two squares, each one of the model's."""


def photograph(kind: str, orientation: int = 1) -> bytes:
    """Return a picture, upright 512 x 256 pixels, with a red and a green square, as a camera stores it."""
    picture = Image.new("RGB", (512, 256))
    picture.paste((255, 0, 0), RED)
    picture.paste((0, 230, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {1: picture, 6: picture.transpose(Image.Transpose.ROTATE_90)}[orientation]
    stream = io.BytesIO()
    stored.save(stream, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return stream.getvalue()


def test_boxes_are_in_pixels_of_the_picture(boxes: Watched) -> None:
    """The model sees 32 x 32 pixels, of which the picture has 32 x 16, between borders."""
    pictures = {"plain.png": photograph("PNG"), "turned.jpg": photograph("JPEG", 6)}
    for key, data in (pictures | {"text.jpg": b"not a picture"}).items():
        boxes.put(key, data)
    assert boxes.ends([*pictures, "text.jpg"]) == dict.fromkeys(pictures, "SUCCEEDED") | {"text.jpg": "REJECTED"}
    for key in pictures:
        row = boxes.row(key)
        first, second = row["prediction"]["detections"]
        assert row["prediction"]["count"] == 2
        assert (first["label"], first["class_index"], first["box"]) == ("red", 0, [*RED])
        assert (second["label"], second["class_index"], second["box"]) == ("green", 1, [*GREEN])
        assert [float(first["score"]), float(second["score"])] == pytest.approx([1, 230 / 255], abs=0.01)
        assert row["kept"]["picture"] == {
            "width": 512,
            "height": 256,
            "input": [32, 32],
            "region": [0, -128, 512, 384],
        }


def test_masks_have_the_size_of_the_picture(masks: Watched, cloud: LocalCloud, outputs: dict[str, str]) -> None:
    masks.put("a.png", photograph("PNG"))
    assert masks.ends(["a.png"]) == {"a.png": "SUCCEEDED"}
    prediction = masks.row("a.png")["prediction"]
    areas = [(each["label"], float(each["share"])) for each in prediction["areas"]]
    assert areas == [("nothing", 0.75), ("red", 0.125), ("green", 0.125)]
    bucket, _, key = prediction["mask"].removeprefix("s3://").partition("/")
    found = cloud.client("s3").get_object(Bucket=bucket, Key=key)
    data = found["Body"].read()
    expected = np.zeros((256, 512), np.uint8)
    for number, (left, top, right, bottom) in ((1, RED), (2, GREEN)):
        expected[top:bottom, left:right] = number
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)
    assert found["ContentType"] == "image/png"

    def ask(function: str) -> str:
        payload = json.dumps({"mask": prediction["mask"]})
        answer = cloud.client("lambda").invoke(FunctionName=outputs[f"{function}Function"], Payload=payload)
        return answer["Payload"].read().decode()

    assert json.loads(ask("Reader")) == len(data)
    assert "AccessDenied" in ask("Stranger")
