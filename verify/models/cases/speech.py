"""Tells speech from silence; what it heard before is a state, which each window takes and gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from case import Case, Run, batch_first
from sounds import conversation

from cdk_inference.model import TensorSpec

WINDOW, CONTEXT = 512, 64

CASE = Case(
    kind="voice activity (with a state)",
    package="silero-vad",
    file="silero_vad/data/silero_vad_half.onnx",
    license="MIT",
    inputs=(
        TensorSpec("input", "float32", ("batch", WINDOW + CONTEXT)),
        TensorSpec("state", "float32", ("batch", 2, 128)),
    ),
    outputs=(TensorSpec("output", "float32", ("batch", 1)), TensorSpec("stateN", "float32", ("batch", 2, 128))),
    seen="speech or not in each window of a conversation",
    bound=0.95,
    metric="mean_absolute_error",
)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    return batch_first(model, {"state": (1, 0, 2), "stateN": (1, 0, 2)})


def windows(run: Run, seed: int):
    """Yield the inputs of each window, and the answer to it, along a conversation."""
    sound = conversation(np.random.default_rng(seed))
    state, context = np.zeros((1, 2, 128), np.float32), np.zeros(CONTEXT, np.float32)
    for start in range(0, len(sound) - WINDOW, WINDOW):
        window = sound[start : start + WINDOW]
        feed = {"input": np.concatenate([context, window])[None], "state": state}
        answer = run(feed)
        yield feed, answer
        state, context = answer["stateN"], window[-CONTEXT:]


def states(seed: int):
    """Yield windows with the states that the float model has when it hears them."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(Path(__file__).parent / "model.onnx"))
    names = [spec.name for spec in CASE.outputs]

    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, feed), strict=True))

    for feed, _ in list(windows(run, seed))[::4]:
        yield feed


def calibration():
    return states(1)


def evaluation():
    return states(2)


def use(run: Run) -> list[bool]:
    return [bool(answer["output"][0, 0] > 0.5) for seed in (3, 4) for _, answer in windows(run, seed)]
