"""A transformer that reads digits and writes words: an encoder, and a decoder with a cache."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

SYMBOLS, VOCABULARY = 11, 33
SIZE, HEADS, LAYERS = 64, 4, 2
PLACES = 16


class Attention(nn.Module):
    """Attention of several heads, whose keys and values may come from a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(SIZE, SIZE)
        self.keys_values = nn.Linear(SIZE, 2 * SIZE)
        self.out = nn.Linear(SIZE, SIZE)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """Attend from x to keys and values, all (batch, places, 64)."""
        heads = [t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (self.query(x), keys, values)]
        return self.out(scaled_dot_product_attention(*heads, is_causal=causal).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A layer that attends to what it read, to the memory if there is one, and computes."""

    def __init__(self, *, memory: bool) -> None:
        super().__init__()
        self.own = Attention()
        self.cross = Attention() if memory else None
        self.feed = nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.GELU(), nn.Linear(4 * SIZE, SIZE))
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(3 if memory else 2))

    def forward(
        self, x: torch.Tensor, past: torch.Tensor | None, memory: torch.Tensor | None, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer's output, and keys and values of all that was read (batch, places, 128)."""
        normed = self.norms[0](x)
        known = self.own.keys_values(normed)
        if past is not None:
            known = torch.cat((past, known), dim=1)
        x = x + self.own(normed, *known.chunk(2, dim=2), causal=causal)
        if self.cross is not None and memory is not None:
            x = x + self.cross(self.norms[1](x), *self.cross.keys_values(memory).chunk(2, dim=2), causal=False)
        return x + self.feed(self.norms[-1](x)), known


class Encoder(nn.Module):
    """From digits (batch, 6) to a memory (batch, 6, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.digits = nn.Embedding(SYMBOLS, SIZE)
        self.places = nn.Parameter(torch.randn(1, 6, SIZE) * 0.1)
        self.layers = nn.ModuleList(Layer(memory=False) for _ in range(LAYERS))

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Read all digits at once."""
        x = self.digits(digits) + self.places
        for layer in self.layers:
            x, _ = layer(x, None, None, causal=False)
        return x


class Decoder(nn.Module):
    """From the newest token to scores of the next one, with the keys and values of the tokens before."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, SIZE)
        self.places = nn.Embedding(PLACES, SIZE)
        self.layers = nn.ModuleList(Layer(memory=True) for _ in range(LAYERS))
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(
        self, tokens: torch.Tensor, place: torch.Tensor, memory: torch.Tensor, cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one token (batch, 1) at a place (batch,), and return logits and the longer cache.

        The cache is (batch, places, 256): keys and values of both layers.
        """
        x = self.tokens(tokens) + self.places(place).unsqueeze(1)
        caches = []
        for layer, past in zip(self.layers, cache.chunk(LAYERS, dim=2), strict=True):
            x, known = layer(x, past, memory, causal=False)
            caches.append(known)
        return self.head(x[:, -1]), torch.cat(caches, dim=2)

    def all_at_once(self, tokens: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Return the logits after each of the tokens, as training needs them."""
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x, _ = layer(x, None, memory, causal=True)
        return self.head(x)


def encoder() -> nn.Module:
    """Return the encoder, still without its weights."""
    return Encoder()


def decoder() -> nn.Module:
    """Return the decoder, still without its weights."""
    return Decoder()
