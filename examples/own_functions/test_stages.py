"""Unit tests of both functions: `pytest` runs them on your machine, without AWS."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdk_inference.testing import run_postprocess, run_preprocess

HERE = Path(__file__).parent
PHOTOS, ANIMALS = HERE / "photos.py:preprocess", HERE / "animals.py:postprocess"


def photograph(width: int, height: int) -> bytes:
    """Return a JPEG that is all green."""
    data = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(data, "JPEG")
    return data.getvalue()


def test_a_photograph_becomes_a_square() -> None:
    found = run_preprocess(PHOTOS, photograph(640, 480), key="album/meadow.jpg")
    assert found.inputs["input"].shape == (224, 224, 3)
    assert found.inputs["input"].dtype == np.uint8


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        ("album/", b"x", "a folder, not a photograph"),
        ("notes.txt", b"hello", "not a photograph: "),
        ("half.jpg", photograph(640, 480)[:500], "not a photograph: "),
        ("empty.jpg", b"", "object is empty"),  # the runtime says so, before it calls the function
    ],
)
def test_anything_else_is_rejected(key: str, data: bytes, reason: str) -> None:
    assert str(run_preprocess(PHOTOS, data, key=key).reason).startswith(reason)


@pytest.mark.parametrize(("label", "animal"), [(281, True), (504, False)])  # a tabby cat, a coffee mug
def test_an_animal_is_told_from_a_thing(label: int, animal: bool) -> None:
    logits = np.zeros(1000, np.float32)
    logits[label] = 20
    row = run_postprocess(ANIMALS, {"logits": logits}, key="album/photo.heic")
    probability = pytest.approx(float(animal), abs=0.001)
    assert row.prediction == {"animal": animal, "probability": probability, "album": "album"}
