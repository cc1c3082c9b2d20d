"""The networks as they are deployed: they take images as they are decoded, and normalise them themselves."""

from __future__ import annotations

import torch
from efficientnet_lite_pytorch import EfficientNet


class Classifier(EfficientNet):
    """An EfficientNet-Lite from uint8 RGB images (batch, height, width, channel) to logits (batch, class)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise as in training, extract features, classify the mean over all positions."""
        pixels = (images.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0
        # The mean instead of the network's own pooling, which exports as index arithmetic. Same numbers.
        return self._fc(self.extract_features(pixels).mean((2, 3)))


def lite0() -> torch.nn.Module:
    """Return EfficientNet-Lite0, for images of 224 x 224."""
    return Classifier.from_name("efficientnet-lite0")


def lite2() -> torch.nn.Module:
    """Return EfficientNet-Lite2, for images of 260 x 260."""
    return Classifier.from_name("efficientnet-lite2")
