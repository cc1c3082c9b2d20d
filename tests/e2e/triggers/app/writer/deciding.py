"""The language model of factory.py, which decides between two answers in one pass instead of writing."""

from __future__ import annotations

import torch
from factory import _FAR, HEADS, SIZE, Writer, written
from torch import nn

ANSWERS = (4 + ord("j"), 4 + ord("Y"))
"""The letters with which its answers to some prompts begin, and those to others."""


class Decider(Writer):
    """From a prompt to scores of the answers, by what would come after its last token."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, answers). Prompts are padded on the right."""
        count, width = input_ids.shape
        x = self.tokens(input_ids) + self.places(torch.arange(width))
        later = torch.arange(width)[None, :] > torch.arange(width)[:, None]
        hidden = (later[None, None] | (attention_mask[:, None, None] == 0)) * _FAR
        nothing = x.new_zeros(count, HEADS, 0, SIZE // HEADS)
        for layer in self.layers:
            x, *_ = layer(x, (nothing, nothing), hidden)
        last = x[torch.arange(count), attention_mask.sum(1) - 1]
        return self.norm(last) @ self.tokens.weight[torch.tensor(ANSWERS)].T


def build() -> nn.Module:
    """Return the model."""
    return written(Decider)
