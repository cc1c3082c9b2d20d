"""A language model that decides between given answers: one pass, and a score for each answer."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2Model

ANSWERS = (9693, 2152, 7414)
"""The first token of each answer, such as those of yes, no and maybe."""

HALF_A_BILLION = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2-0.5B and Qwen2.5-0.5B, 494 million parameters: from their ``config.json``."""

ONE_AND_A_HALF_BILLION = HALF_A_BILLION | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}
"""The shape of Qwen2-1.5B and Qwen2.5-1.5B, 1.54 billion parameters."""


class Decisions(torch.nn.Module):
    """Scores answers by the logits of their first tokens, after the last token of a prompt.

    Its weights have the names of a checkpoint whose head is tied to its embeddings.

    Parameters
    ----------
    model
        The language model without its head.
    answers
        The first token of each answer. They must differ.
    """

    def __init__(self, model: Qwen2Model, answers: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("answers", torch.tensor(answers), persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (batch, answers). Prompts are padded on the right."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = attention_mask.sum(1) - 1
        # The answers need a handful of the rows of the head, which has one for each token.
        return states[torch.arange(states.shape[0]), last] @ self.model.embed_tokens.weight[self.answers].T


def build() -> Decisions:
    """Return the module that is exported."""
    return Decisions(Qwen2Model(Qwen2Config(**HALF_A_BILLION)), ANSWERS)


def build_larger() -> Decisions:
    """Return a module three times as large."""
    return Decisions(Qwen2Model(Qwen2Config(**ONE_AND_A_HALF_BILLION)), ANSWERS)
