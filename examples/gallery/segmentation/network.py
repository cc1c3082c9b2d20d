"""A small U-Net: it looks at a picture in two sizes, and gives scores for each pixel."""

import torch
from torch import nn


def convolve(inputs, outputs):
    """Return two convolutions that keep the size."""
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()),
    )


class Network(nn.Module):
    """Takes pictures, (batch, 48, 48, 3) uint8, and returns scores, (batch, 3, 48, 48)."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse, self.joined = convolve(3, 8), convolve(8, 24), convolve(32, 8)
        self.shrink, self.grow = nn.MaxPool2d(4), nn.Upsample(scale_factor=4)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, pictures):
        """Join what the fine and the coarse convolutions see."""
        fine = self.fine(pictures.permute(0, 3, 1, 2).to(torch.float32) / 255)
        coarse = self.grow(self.coarse(self.shrink(fine)))
        return self.head(self.joined(torch.cat([fine, coarse], dim=1)))


def build():
    """Return the network, still without its weights."""
    return Network()
