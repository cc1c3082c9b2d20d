"""Tells speakers apart by their voices: a recurrent network in PyTorch, whose package nests its weights."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import torch
from case import Case, Run, batches
from sounds import slaney, voice
from torch import nn

from cdk_inference.model import TensorSpec

FRAMES, BANDS, WIDTH = 160, 40, 256
CLIPS = 4
"""The number of clips of each speaker."""
LOUDNESS = 10 ** (-30 / 20)
"""30 dB below the loudest."""

CASE = Case(
    kind="speakers (recurrent)",
    package="resemblyzer",
    file="",
    license="Apache-2.0",
    inputs=(TensorSpec("mels", "float32", ("batch", FRAMES, BANDS)),),
    outputs=(TensorSpec("embedding", "float32", ("batch", WIDTH)),),
    seen="the most similar voice",
    bound=0.9,
    factory="build",
)


class VoiceEncoder(nn.Module):
    """The package's network, without what else its module imports."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        steps, _ = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(steps[:, -1])))


def build() -> nn.Module:
    file = distribution(CASE.package).locate_file("resemblyzer/pretrained.pt")
    weights = torch.load(str(file), map_location="cpu", weights_only=True)["model_state"]
    network = VoiceEncoder()
    network.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("similarity")})
    return network


def clips(seed: int, speakers: int) -> list[dict[str, np.ndarray]]:
    """Return clips of speakers who differ in pitch and vocal tract, as loud as the package makes them."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(speakers):
        pitch, tract = 80 * 3.4 ** (number / speakers), random.uniform(0.8, 1.25)
        for _ in range(CLIPS):
            sound = voice(random, 1.7, 16000, pitch, tract)
            loud = sound * LOUDNESS / np.sqrt(np.mean(np.square(sound)))
            found.append({"mels": slaney(loud, 16000, BANDS)[:FRAMES]})
    return found


def calibration():
    return batches(clips(1, 6))


def evaluation():
    return batches(clips(2, 8))


def use(run: Run) -> list[int]:
    vectors = np.concatenate([run(batch)["embedding"] for batch in batches(clips(3, 12), 1)])
    return (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(axis=1).tolist()
