"""A recurrent network that gives time before the batch, as its package ships it."""

from __future__ import annotations

import numpy as np
from case import Case, Run

from cdk_inference.model import TensorSpec

CASE = Case(
    kind="seizures (time before batch)",
    package="brainmaze-eeg-models",
    file="brainmaze_eeg_models/seizure/_models/modelB_full.onnx",
    license="BSD-3-Clause",
    inputs=(TensorSpec("x", "float32", ("batch", 100, "time")),),
    outputs=(TensorSpec("probs", "float32", ("time", "batch", 4)),),
    seen="",
    bound=0.0,
    refused=r"make the first axis of inputs and outputs the batch",
)


def calibration():
    return evaluation()


def evaluation():
    yield {"x": np.zeros((1, 100, 60), np.float32)}


def use(run: Run) -> list[int]:
    return []
