"""ResNet-18 (K. He et al., 2015) with random weights: real shapes and operators for measuring size and speed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(before, width, 1 if before == width else 2), Block(width, width, 1))
                for before, width in pairwise(widths)
            )
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From uint8 RGB images (batch, height, width, channel) to logits (batch, 1000)."""
        pixels = (images.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 64.0
        return self.head(self.stages(self.stem(pixels)).mean((2, 3)))


def build() -> nn.Module:
    torch.manual_seed(18)
    model = ResNet18()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Without a common part in all filters, whose sums would drown what differs between images.
            module.weight.data -= module.weight.data.flatten(1).mean(1).reshape(-1, *[1] * (module.weight.ndim - 1))
    return model
