"""A recurrent network for sequences of any length.

An LSTM rather than a GRU: onnxruntime computes LSTMs in int8, but has no such GRU.
"""

from __future__ import annotations

import torch
from torch import nn

FEATURES = 12
SPEAKERS = 9
HIDDEN = 96


class Speaker(nn.Module):
    """From frames (batch, sequence, 12) and lengths (batch,) to logits (batch, 9).

    Frames beyond the length of their sequence change nothing: the LSTM reads forwards, and the mean leaves them out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.lstm = nn.LSTM(FEATURES, HIDDEN, num_layers=2, batch_first=True, dropout=0.3)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(HIDDEN, SPEAKERS)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Normalise, read the frames, classify the mean of the states."""
        states, _ = self.lstm((frames - self.mean) / self.deviation)
        positions = torch.arange(frames.shape[1], device=frames.device)
        inside = (positions < lengths.unsqueeze(1)).to(states.dtype).unsqueeze(2)
        mean = (states * inside).sum(1) / lengths.clamp(min=1).unsqueeze(1)
        return self.head(self.dropout(mean))


def build() -> nn.Module:
    """Return the network, still without its weights."""
    return Speaker()
