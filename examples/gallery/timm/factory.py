"""A classifier of pictures, as timm has it."""

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn


class Network(nn.Module):
    """Takes pictures as they are stored, (batch, 160, 160, 3) uint8, and gives the scores of ImageNet's classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        # Random weights, so that nothing has to be downloaded. With timm's, this is "mobilenetv3_small_100" with
        # pretrained=True.
        self.model = timm.create_model("mobilenetv3_small_100", pretrained=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD), persistent=False)

    def forward(self, pictures):
        """Scale the pixels here, so that no other code has to know."""
        numbers = (pictures.to(torch.float32) / 255 - self.mean) / self.std
        return self.model(numbers.permute(0, 3, 1, 2))


def build():
    """Return the network."""
    return Network()
