"""A language model of two layers that knows bytes. Its weights are random: it writes the same nonsense each time."""

from __future__ import annotations

import torch
from torch import nn

BYTES, SPECIAL = 256, 4
SIZE, HEADS, LAYERS = 32, 2, 2
PLACES = 160
_FAR = -1e9  # not infinite: a place that is filled up attends to nothing, and must not become NaN


class Layer(nn.Module):
    """Attends to what was read so far, and computes."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(SIZE, SIZE, bias=False) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.GELU(), nn.Linear(4 * SIZE, SIZE))

    def forward(
        self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor], hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what comes out, and keys and values (batch, heads, places, 16) of all that was read."""
        normed = self.norms[0](x)
        query, key, value = (
            part(normed).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        keys, values = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        likeness = query @ keys.transpose(2, 3) / (SIZE // HEADS) ** 0.5 + hidden
        heard = (likeness.softmax(-1) @ values).transpose(1, 2).flatten(2)
        x = x + self.out(heard)
        return x + self.feed(self.norms[1](x)), keys, values


class Writer(nn.Module):
    """From new tokens to scores of the next one, with the keys and values of the tokens before."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(BYTES + SPECIAL, SIZE)
        self.places = nn.Embedding(PLACES, SIZE)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(SIZE)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return logits (batch, 260), and the longer keys and values of each layer."""
        x = self.tokens(input_ids) + self.places(position_ids)
        read, new = attention_mask.shape[1], input_ids.shape[1]
        later = torch.arange(read)[None, :] > torch.arange(new)[:, None] + (read - new)
        hidden = (later[None, None] | (attention_mask[:, None, None] == 0)) * _FAR
        caches: list[torch.Tensor] = []
        for layer, keys, values in zip(self.layers, past[::2], past[1::2], strict=True):
            x, *longer = layer(x, (keys, values), hidden)
            caches += longer
        return self.norm(x[:, -1]) @ self.tokens.weight.T, *caches


def build() -> nn.Module:
    """Return the model. The head is its table of embeddings."""
    return written(Writer)


def written(kind: type[Writer]) -> Writer:
    """Return a model of a kind with its weights."""
    torch.manual_seed(12)
    writer = kind()
    with torch.no_grad():
        for parameter in writer.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.6)
    return writer
