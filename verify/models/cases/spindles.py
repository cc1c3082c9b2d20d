"""Finds spindles in the brain waves of sleep: a one-dimensional U-Net with a part for detection."""

from __future__ import annotations

import runpy
from importlib.metadata import distribution

import numpy as np
from case import Case, Run, batches, f1
from sounds import brain

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="brain waves (1-D U-Net)",
    package="brainmaze-eeg-models",
    file="brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
    license="BSD-3-Clause",
    inputs=(
        TensorSpec("raw_signal", "float32", ("batch", 1, 7500)),
        TensorSpec("spectrogram", "float32", ("batch", 15, 7500)),
    ),
    outputs=(TensorSpec("detection", "float32", ("batch", 30, 3)),),
    seen="spindles in half a minute (F1 at half a second)",
    bound=0.85,
)


def package(file: str) -> dict:
    """Run a file of the package, which asks for more than its files need."""
    return runpy.run_path(str(distribution(CASE.package).locate_file(f"brainmaze_eeg_models/spindles/{file}")))


scalogram = package("_cwt.py")["scalogram"]
DECODING = package("_decode.py")


def windows(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        waves = brain(random, 7500, 250.0)
        signal, spectrum = waves[None], scalogram(waves)
        found.append({"raw_signal": normal(signal), "spectrogram": normal(spectrum)})
    return found


def normal(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=-1, keepdims=True)
    return ((values - values.mean(axis=-1, keepdims=True)) / spread).astype(np.float32)


def calibration():
    return batches(windows(1, 12), 2)


def evaluation():
    return batches(windows(2, 8), 2)


def use(run: Run) -> list[list[tuple[float, ...]]]:
    return [
        [tuple(each[:2] / 250) for each in decode_window(run(batch)["detection"][0])]
        for batch in batches(windows(3, 12), 1)
    ]


def decode_window(scores: np.ndarray) -> np.ndarray:
    return DECODING["decode_window"](DECODING["sigmoid"](scores))


def agreement(expected, found) -> float:
    return f1(expected, found, lambda one, other: abs(one[0] - other[0]) < 0.5 and abs(one[1] - other[1]) < 0.5)
