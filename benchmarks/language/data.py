"""Prompts of random tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTHS = ((24, 17), (40, 40), (64, 9))


def prompts() -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of two prompts, padded on the right."""
    random = np.random.default_rng(0)
    for lengths in _LENGTHS:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        yield {"input_ids": random.integers(0, 151_936, mask.shape) * mask, "attention_mask": mask}
