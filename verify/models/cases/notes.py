"""Writes down the notes of music."""

from __future__ import annotations

import numpy as np
from case import Case, Run, batches, f1
from sounds import chord

from cdk_inference.model import TensorSpec

LENGTH, RATE = 43844, 22050
NOTES = "StatefulPartitionedCall:1"

CASE = Case(
    kind="music transcription",
    package="basic-pitch",
    file="basic_pitch/saved_models/icassp_2022/nmp.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("serving_default_input_2:0", "float32", ("batch", LENGTH, 1)),),
    outputs=(TensorSpec(NOTES, "float32", ("batch", 172, 88)),),
    seen="notes that sound in two seconds (F1)",
    bound=0.9,
)


def music(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{CASE.inputs[0].name: chord(random, LENGTH, RATE)[:, None]} for _ in range(count)]


def calibration():
    return batches(music(1, 12), 2)


def evaluation():
    return batches(music(2, 8), 2)


def use(run: Run) -> list[list[int]]:
    """Return the notes that sound for a tenth of a second."""
    return [
        np.flatnonzero((run(batch)[NOTES][0] > 0.3).sum(axis=0) >= 9).tolist() for batch in batches(music(3, 16), 1)
    ]


def agreement(expected, found) -> float:
    return f1(expected, found, lambda one, other: one == other)
