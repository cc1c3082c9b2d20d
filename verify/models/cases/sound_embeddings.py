"""Compares short sounds: the embeddings on which wake words are recognized."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import onnxruntime as ort
from case import Case, Run, batches
from sounds import chord, conversation, voice

from cdk_inference.model import TensorSpec

FRAMES, RATE = 76, 16000
KINDS = 4

CASE = Case(
    kind="sound embeddings (convolutional)",
    package="openwakeword",
    file="openwakeword/resources/models/embedding_model.onnx",
    license="Apache-2.0",
    inputs=(TensorSpec("input_1", "float32", ("batch", FRAMES, 32, 1)),),
    outputs=(TensorSpec("conv2d_19", "float32", ("batch", 1, 1, 96)),),
    seen="the most similar sound among voices, chords and noises",
    bound=0.85,
    max_drop=0.003,
)


def sounds(seed: int, count: int) -> list[np.ndarray]:
    """Return low and high voices, chords and noises in turn, each for 0.8 seconds."""
    random = np.random.default_rng(seed)
    length = int(0.8 * RATE)
    found = []
    for number in range(count):
        kind = number % KINDS
        if kind < 2:
            pitch = random.uniform(85, 120) if kind else random.uniform(200, 260)
            found.append(voice(random, 0.8, RATE, pitch, random.uniform(0.9, 1.1)))
        elif kind == 2:
            found.append(chord(random, length, RATE))
        else:
            found.append(conversation(random)[-length:] + 0.05 * random.normal(size=length))
    return found


def windows(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    """Return the package's spectrograms of sounds."""
    file = distribution(CASE.package).locate_file("openwakeword/resources/models/melspectrogram.onnx")
    session = ort.InferenceSession(str(file))
    found = []
    for sound in sounds(seed, count):
        loud = (np.clip(sound, -1, 1) * 32767).astype(np.int16).astype(np.float32)[None]
        spectrum = session.run(None, {"input": loud})[0].squeeze() / 10 + 2
        found.append({"input_1": spectrum[:FRAMES, :, None].astype(np.float32)})
    return found


def calibration():
    return batches(windows(1, 32), 8)


def evaluation():
    return batches(windows(2, 48), 8)


def use(run: Run) -> list[int]:
    vectors = np.stack([run(batch)["conv2d_19"][0, 0, 0] for batch in batches(windows(3, 60), 1)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(axis=1).tolist()


def right(answers: list[int]) -> list[bool]:
    """Tell which of the most similar sounds are of the same kind."""
    return [place % KINDS == answer % KINDS for place, answer in enumerate(answers)]
