"""Prompts of bytes, as the tokenizer makes them of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXTS = (
    ("is it going to rain tomorrow?", "say hello", "größer"),
    ("how do you do?", "a much longer question than all of the others, with a comma", "no"),
)
SPECIAL = 4
"""Tokens before those of the bytes."""


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    """Yield prompts that are padded on the right, and how the model is to write."""
    for texts in _TEXTS:
        yield _padded([[SPECIAL + byte for byte in text.encode()] for text in texts]) | {
            "max_tokens": np.array([99, 7, 99], np.int64),
            "temperature": np.array([-1, 0, 2], np.float32),
            "seed": np.array([1, 2, 3], np.int64),
        }


def prompts() -> Iterator[dict[str, np.ndarray]]:
    """Yield prompts with the tokens that the app puts around a text."""
    for texts in _TEXTS:
        yield _padded([[1, *(SPECIAL + byte for byte in text.encode()), 2] for text in texts])


def _padded(rows: list[list[int]]) -> dict[str, np.ndarray]:
    width = max(map(len, rows))
    return {
        "input_ids": np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64),
        "attention_mask": np.array([[*[1] * len(row), *[0] * (width - len(row))] for row in rows], np.int64),
    }
