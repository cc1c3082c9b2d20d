"""A small network that tells languages: the mean of the vectors of a text's tokens, and a layer on top.

As in Joulin et al., "Bag of Tricks for Efficient Text Classification", https://arxiv.org/abs/1607.01759.
"""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY, WIDTH, CLASSES = 1000, 32, 6


class Languages(nn.Module):
    """From tokens and their mask (batch, sequence), int64, to logits (batch, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Average over the tokens that are not padding, classify."""
        kept = attention_mask.unsqueeze(2).to(torch.float32)
        count = kept.sum(1).clamp(min=1)  # people label empty texts, too
        return self.classifier((self.embedding(input_ids) * kept).sum(1) / count)


def build() -> nn.Module:
    """Return the network, still without its weights."""
    return Languages()
