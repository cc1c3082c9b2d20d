"""A recognizer of spoken digits: samples become features in the network itself, and each frame scores the digits.

An LSTM rather than a GRU: onnxruntime computes LSTMs in int8, but has no such GRU.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import conv1d, relu

RATE = 8_000  # Hz
WINDOW, HOP = 256, 80  # 32 ms, every 10 ms
BANDS = 40
CHANNELS, HIDDEN = 64, 64
TOKENS = 11
"""No digit, and ten digits."""

_QUIET = 1e-6  # power below which all is silence


class LogMel(nn.Module):
    """From samples (batch, samples) to the logarithm of the power in mel bands (batch, 40, frames).

    The transform is a convolution with sines and cosines, and the bands are a product. A graph has both, so that
    features are the same in training, in the build and in the function. See Davis and Mermelstein 1980,
    https://doi.org/10.1109/TASSP.1980.1163420.
    """

    def __init__(self) -> None:
        super().__init__()
        bins = WINDOW // 2 + 1
        angles = 2 * math.pi / WINDOW * torch.outer(torch.arange(bins), torch.arange(WINDOW)).to(torch.float64)
        window = torch.hann_window(WINDOW, dtype=torch.float64)
        waves = torch.cat((angles.cos(), angles.sin())) * window
        self.register_buffer("waves", waves.unsqueeze(1).to(torch.float32), persistent=False)
        highest = 2595 * math.log10(1 + RATE / 2 / 700)
        edges = 700 * (10 ** (torch.linspace(0, highest, BANDS + 2, dtype=torch.float64) / 2595) - 1)
        hertz = torch.linspace(0, RATE / 2, bins, dtype=torch.float64)
        low, middle, high = (edges[start : start + BANDS, None] for start in range(3))
        bands = torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp(min=0)
        self.register_buffer("bands", bands.to(torch.float32), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Return features of each 10 ms."""
        spectrum = conv1d(samples.unsqueeze(1), self.waves, stride=HOP, padding=WINDOW // 2)
        cosines, sines = spectrum.chunk(2, dim=1)
        return torch.log(self.bands @ (cosines * cosines + sines * sines) + _QUIET)


class Recognizer(nn.Module):
    """From samples (batch, samples), from -1 to 1 at 8 kHz, to logits (batch, frames, 11), one every 40 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.features = LogMel()
        self.register_buffer("mean", torch.zeros(BANDS, 1))
        self.register_buffer("deviation", torch.ones(BANDS, 1))
        self.first = nn.Conv1d(BANDS, CHANNELS, 5, stride=2, padding=2)
        self.second = nn.Conv1d(CHANNELS, CHANNELS, 5, stride=2, padding=2)
        self.dropout = nn.Dropout(0.2)
        self.lstm = nn.LSTM(CHANNELS, HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, TOKENS)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Score the digits in each frame."""
        x = (self.features(samples) - self.mean) / self.deviation
        x = relu(self.second(relu(self.first(x))))
        states, _ = self.lstm(self.dropout(x.transpose(1, 2)))
        return self.head(self.dropout(states))


def build() -> nn.Module:
    """Return the network, still without its weights."""
    return Recognizer()
