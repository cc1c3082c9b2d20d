"""A small convolutional network for digits of 8 x 8 pixels."""

from __future__ import annotations

import torch
from torch import nn


class Digits(nn.Module):
    """From images (batch, 8, 8), uint8 from 0 to 16, to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 24),
            *_block(24, 48),
            nn.MaxPool2d(2),
            *_block(48, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(64 * 2 * 2, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale, extract features, classify."""
        pixels = images.unsqueeze(1).to(torch.float32) / 16.0
        return self.head(self.features(pixels).flatten(1))


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def build() -> nn.Module:
    """Return the network, still without its weights."""
    return Digits()
