"""The recognizer of spoken digits as two graphs: one hears a recording, and one writes digit by digit.

The second one looks for the frame in which the next digit begins, and keeps where it was, as a transducer does (Graves
2012, https://arxiv.org/abs/1211.3711).
"""

from __future__ import annotations

import torch
from factory import Recognizer
from torch import nn

START, END, TOKENS = 0, 11, 12
_SHORTEST = 3  # frames of 40 ms, before which the same digit does not begin again
_NEVER = -1e4


class Encoder(Recognizer):
    """From samples (batch, samples) to the logarithms of probabilities (batch, frames, 11)."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Hear a recording."""
        return super().forward(samples).log_softmax(2)


class Decoder(nn.Module):
    """From the last digit to scores of the next one (batch, 12), and the frame from which on to look for more."""

    def forward(
        self, tokens: torch.Tensor, heard: torch.Tensor, frame: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the last digit (batch, 1), what was heard, and the frame (batch,)."""
        best = heard.argmax(2)
        before = torch.cat((torch.zeros_like(best[:, :1]), best[:, :-1]), 1)
        frames = torch.arange(best.shape[1])[None]
        again = (best == tokens) & (frames < frame[:, None] + _SHORTEST)
        begins = (best != 0) & (best != before) & (frames >= frame[:, None]) & ~again
        found = begins.any(1, keepdim=True)
        at = begins.to(torch.int64).argmax(1)
        scores = heard.gather(1, at[:, None, None].expand(-1, -1, heard.shape[2])).squeeze(1)
        end = torch.where(found, _NEVER, 0.0)
        return torch.cat((torch.where(found, scores, _NEVER), end), 1), at + 1


def encoder() -> nn.Module:
    """Return the network that hears, still without its weights."""
    return Encoder()


def decoder() -> nn.Module:
    """Return the network that writes, which has none."""
    return Decoder()
