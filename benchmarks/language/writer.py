"""A language model that writes: new tokens and a cache go in, scores and the longer cache come out."""

from __future__ import annotations

import torch
from decisions import HALF_A_BILLION
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM


class Writer(torch.nn.Module):
    """Reads new tokens next to a cache of those before them.

    Its weights have the names of a checkpoint.

    Parameters
    ----------
    language_model
        The language model with its head.
    """

    def __init__(self, language_model: Qwen2ForCausalLM) -> None:
        super().__init__()
        self.model, self.lm_head = language_model.model, language_model.lm_head

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return logits of shape (batch, vocabulary), and the longer keys and values of each layer."""
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        # The head has 151,936 rows, so only the last token of a prompt goes through it.
        logits = self.lm_head(found.last_hidden_state[:, -1])
        return logits, *(part for layer in found.past_key_values.layers for part in (layer.keys, layer.values))


def build() -> Writer:
    """Return the module that is exported."""
    return Writer(Qwen2ForCausalLM(Qwen2Config(**HALF_A_BILLION)))
