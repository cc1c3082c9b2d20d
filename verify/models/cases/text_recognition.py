"""Reads lines of text."""

from __future__ import annotations

import random
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx
from case import Case, Run, collapse
from pictures import line, phrase, pixels

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="text recognition",
    package="rapidocr-onnxruntime",
    file="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("x", "float32", ("batch", 3, 48, "width")),),
    outputs=(TensorSpec("softmax_11.tmp_0", "float32", ("batch", "steps", 6625)),),
    seen="texts of lines in five fonts (equal lines)",
    bound=0.85,
    metric="text_recognition.py:equal_lines",
    max_drop=0.05,
)


def lines(seed: int, count: int):
    numbers = random.Random(seed)
    for _ in range(count):
        text = phrase(numbers, numbers.randint(1, 4))
        image = line(text, numbers)
        yield {"x": pixels(image.resize((-(-image.width // 32) * 32, 48)))[None]}


def calibration():
    return lines(1, 24)


def evaluation():
    from onnxruntime import InferenceSession

    session = InferenceSession(str(Path(__file__).parent / "model.onnx"))
    for feed in lines(2, 40):
        yield feed, [read(session.run(None, feed)[0][0])]


def equal_lines(outputs: list[dict[str, np.ndarray]], labels: list[list[str]]) -> float:
    """Return the share of lines that read as float32 reads them."""
    texts = [read(scores) for batch in outputs for scores in batch["softmax_11.tmp_0"]]
    return float(np.mean([a == b for a, b in zip(texts, [t for batch in labels for t in batch], strict=True)]))


def use(run: Run) -> list[str]:
    return [read(run(feed)["softmax_11.tmp_0"][0]) for feed in lines(3, 60)]


def read(scores: np.ndarray) -> str:
    return collapse(scores.argmax(axis=1).tolist(), characters(), 0)


def characters() -> list[str]:
    """Return the characters that the file lists, behind the blank."""
    if not _CHARACTERS:
        file = distribution(CASE.package).locate_file(CASE.file)
        texts = {p.key: p.value for p in onnx.load(str(file)).metadata_props}
        _CHARACTERS.extend(["", *texts["character"].splitlines(), " "])
    return _CHARACTERS


_CHARACTERS: list[str] = []
