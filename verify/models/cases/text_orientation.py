"""Tells lines of text that are upside down."""

from __future__ import annotations

import random

import numpy as np
from case import Case, Run, batches
from pictures import line, phrase, pixels

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="text orientation",
    package="rapidocr-onnxruntime",
    file="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("x", "float32", ("batch", 3, 48, 192)),),
    outputs=(TensorSpec("save_infer_model/scale_0.tmp_1", "float32", ("batch", 2)),),
    seen="upright or upside down",
    bound=0.95,
    metric="top1_agreement",
)


def lines(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    numbers = random.Random(seed)
    found = []
    for _ in range(count):
        image = line(phrase(numbers, numbers.randint(1, 3)), numbers).resize((192, 48))
        found.append({"x": pixels(image.rotate(numbers.choice((0, 180))))})
    return found


def calibration():
    return batches(lines(1, 32), 8)


def evaluation():
    return batches(lines(2, 64), 8)


def use(run: Run) -> list[int]:
    return [int(run(batch)["save_infer_model/scale_0.tmp_1"].argmax()) for batch in batches(lines(3, 80), 1)]
