"""The network as it is deployed: tokens in, one vector of length 1 for each text out.

A BERT encoder whose parts have the names of the published weights. Written out, because the graph of the `transformers`
package varies with its releases. The vectors are the same: with transformers 5.23 they differ by at most 2e-7.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone does

LAYERS = 6
HEADS = 12
WIDTH = 384
INNER_WIDTH = 1536
VOCABULARY = 30522
POSITIONS = 512
EPSILON = 1e-12
MASKED = -1e4  # softmax makes it exactly 0, in half precision too


class Embeddings(nn.Module):
    """Token ids (batch, sequence) to vectors (batch, sequence, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.register_buffer("position_ids", torch.arange(POSITIONS)[None])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Add what each token, its position, and the first sentence of a pair stand for."""
        # All tokens are of the first sentence, since there is one: the network needs no third input.
        fixed = self.position_embeddings.weight + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(input_ids) + fixed[: input_ids.shape[1]])


class Layer(nn.Module):
    """One transformer layer: attention, then two dense layers, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        projections = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": _output(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, INNER_WIDTH)})
        self.output = _output(INNER_WIDTH)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Transform states (batch, sequence, width); the bias (batch, 1, 1, sequence) hides padding."""
        batch, sequence, _ = states.shape
        query, key, value = (
            self.attention["self"][name](states).reshape(batch, sequence, HEADS, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        mixed = (torch.softmax(scores + bias, -1) @ value).transpose(1, 2).reshape(batch, sequence, WIDTH)
        states = _add(self.attention["output"], mixed, states)
        return _add(self.output, F.gelu(self.intermediate["dense"](states)), states)


class SentenceEncoder(nn.Module):
    """Token ids and attention mask (batch, sequence) to embeddings (batch, width) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})  # has weights, but is not for sentences

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode, average over the tokens that are not padding, normalise."""
        mask = attention_mask.to(torch.float32)
        bias = (1 - mask[:, None, None]) * MASKED
        # Padding stays zero throughout, which changes no vector, so that it has no say in the range of activations
        # that are quantized as they come.
        kept = mask[:, :, None]
        states = self.embeddings(input_ids) * kept
        for layer in self.encoder["layer"]:
            states = layer(states, bias) * kept
        # The mean over the tokens up to a factor, which the normalisation takes out.
        return F.normalize(states.sum(1))


def build() -> nn.Module:
    """Return the network; the recipe names its weights."""
    return SentenceEncoder()


def _output(inputs: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, WIDTH), "LayerNorm": nn.LayerNorm(WIDTH, eps=EPSILON)})


def _add(output: nn.ModuleDict, values: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return output["LayerNorm"](output["dense"](values) + states)
