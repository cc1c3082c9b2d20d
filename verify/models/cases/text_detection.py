"""Finds lines of text: a map of where text is, and boxes around it."""

from __future__ import annotations

import random

import numpy as np
from case import Case, Run, batches, f1, overlap
from pictures import page, photographs, pixels
from scipy import ndimage

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="text detection (segmentation)",
    package="rapidocr-onnxruntime",
    file="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("x", "float32", ("batch", 3, 320, 320)),),
    outputs=(TensorSpec("sigmoid_0.tmp_0", "float32", ("batch", 1, 320, 320)),),
    seen="boxes around lines of text, on paper and on photographs (F1 at half overlap)",
    bound=0.9,
)


def pages(seed: int, kind: str, count: int) -> list[dict[str, np.ndarray]]:
    numbers = random.Random(seed)
    papers = [*photographs(kind)[: count // 2], *[None] * count]
    return [{"x": pixels(page(numbers, background=papers[i]))} for i in range(count)]


def calibration():
    return batches(pages(1, "calibration", 12), 2)


def evaluation():
    return batches(pages(2, "evaluation", 8), 2)


def use(run: Run) -> list[list[tuple[int, ...]]]:
    return [boxes(run(batch)["sigmoid_0.tmp_0"][0, 0]) for batch in batches(pages(3, "photographs", 12), 1)]


def boxes(scores: np.ndarray) -> list[tuple[int, ...]]:
    areas, _ = ndimage.label(scores > 0.3)
    found = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(areas), 1):
        area = areas[rows, columns] == index
        if area.sum() >= 20 and scores[rows, columns][area].mean() >= 0.6:
            found.append((columns.start, rows.start, columns.stop, rows.stop))
    return found


def agreement(expected, found) -> float:
    return f1(expected, found, lambda one, other: overlap(one, other) > 0.5)
