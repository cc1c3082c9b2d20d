"""Reads captchas; a recurrent network that gives its steps before the batch."""

from __future__ import annotations

import random

import numpy as np
import onnx
from captcha.image import ImageCaptcha
from case import Case, Run, batch_first, batches

from cdk_inference.model import TensorSpec

LABELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_"

CASE = Case(
    kind="captcha (convolutional and recurrent)",
    package="captcha-whisperer",
    file="captcha_whisperer/models/captcha_crnn.onnx",
    license="MIT",
    inputs=(TensorSpec("image", "float32", ("batch", 3, 60, 160)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 20, 37)),),
    seen="letters of captchas (equal letters)",
    bound=0.85,
)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    return batch_first(model, {"logits": (1, 0, 2)})


def captchas(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    random.seed(seed)
    found = []
    for _ in range(count):
        image = ImageCaptcha(160, 60).generate_image("".join(random.choices(LABELS[1:-1], k=4)))
        found.append({"image": np.asarray(image.convert("RGB"), np.float32)[:, :, ::-1].transpose(2, 0, 1)})
    return found


def calibration():
    return batches(captchas(1, 24))


def evaluation():
    return batches(captchas(2, 24))


def use(run: Run) -> list[str]:
    return [read(run(batch)["logits"][0]) for batch in batches(captchas(3, 40), 1)]


def read(scores: np.ndarray) -> str:
    """Return the text as the package does: label 0 is never read."""
    text, before = "", 36
    for best in scores[:19, 1:].argmax(axis=1).tolist():
        if best not in (36, before):
            text += LABELS[best + 1]
        before = best
    return text.replace("_", "")


def agreement(expected, found) -> float:
    """Return one less the edits that lead from one text to the other, for each letter."""
    edits = sum(distance(a, b) for a, b in zip(expected, found, strict=True))
    return 1.0 - edits / max(1, sum(map(len, expected)))


def distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
