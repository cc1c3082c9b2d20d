"""Finds faces and parts of bodies in photographs: a YOLO, whose output joins boxes and scores."""

from __future__ import annotations

import numpy as np
from case import Case, Run, batches, f1, overlap
from pictures import photographs
from PIL import Image, ImageEnhance, ImageOps

from cdk_inference.model import TensorSpec, YoloHead

SIZE = 320

CASE = Case(
    kind="object detection (YOLO)",
    package="nudenet",
    file="nudenet/320n.onnx",
    license="AGPL-3.0",
    inputs=(TensorSpec("images", "float32", ("batch", 3, SIZE, SIZE)),),
    outputs=(TensorSpec("output0", "float32", ("batch", 22, 2100)),),
    seen="boxes and classes in photographs (F1 at half overlap)",
    bound=0.8,
    metric="box_f1",
    max_drop=0.05,
    head=YoloHead(),
)


def samples(kind: str) -> list[dict[str, np.ndarray]]:
    """Return photographs as they are, and turned, cut and darkened: what has people in it is rare here."""
    found = []
    for image in photographs(kind):
        width, height = image.size
        middle = image.crop((width // 4, 0, width * 3 // 4, height * 3 // 4))
        found += [image, ImageOps.mirror(image), middle, ImageEnhance.Brightness(image).enhance(0.6)]
    return [{"images": square(image)} for image in found]


def square(image: Image.Image) -> np.ndarray:
    side = max(image.size)
    padded = Image.new("RGB", (side, side))
    padded.paste(image)
    return (np.asarray(padded.resize((SIZE, SIZE)), np.float32) / 255).transpose(2, 0, 1)


def calibration():
    return batches(samples("calibration")[::3])


def evaluation():
    return batches(samples("evaluation")[::3])


def use(run: Run) -> list[list[tuple[object, ...]]]:
    return [detect(run(batch)["output0"][0].T) for batch in batches(samples("photographs"), 1)]


def detect(rows: np.ndarray) -> list[tuple[object, ...]]:
    """Return (class, left, top, right, bottom) of the best boxes, as the package does."""
    scores = rows[:, 4:].max(axis=1)
    found: list[tuple[object, ...]] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < 0.25:
            break
        x, y, width, height = rows[index, :4].tolist()
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if all(overlap(box, other[1:]) < 0.45 for other in found):
            found.append((int(rows[index, 4:].argmax()), *box))
    return found


def agreement(expected, found) -> float:
    if not any(expected):
        raise AssertionError("float32 must find something in the photographs")
    return f1(expected, found, lambda one, other: one[0] == other[0] and overlap(one[1:], other[1:]) > 0.5)
