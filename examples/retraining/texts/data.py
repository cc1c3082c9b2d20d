"""Sentences in six languages, and texts that people have labelled.

The sentences are Django's, as its translators have them: https://github.com/django/django, with the licence in
LICENSE.django. Each row is one sentence in all languages, without its placeholders.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
HELD_OUT = 40  # sentences
BATCH = 50
MAX_TOKENS = 128

LANGUAGES = (HERE / "labels.txt").read_text("utf-8").split()


def sentences() -> list[list[str]]:
    """Return the sentences, each in all languages, in their order."""
    with gzip.open(HERE / "sentences.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def texts(rows: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Return the texts of some sentences, and the places of their languages."""
    found = [text for row in rows for text in row]
    return found, np.tile(np.arange(len(LANGUAGES)), len(rows))


def labelled(listed: Path) -> tuple[list[str], np.ndarray]:
    """Return the texts of a file of labels, and what they are said to be."""
    lines = [json.loads(line) for line in listed.read_text("utf-8").splitlines()] if listed.is_file() else []
    found = [(listed.parent / line["path"]).read_text("utf-8") for line in lines]
    return found, np.array([LANGUAGES.index(line["label"]) for line in lines], np.int64)


def encoded(batch: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the inputs of the model for some texts."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    encodings = tokenizer.encode_batch(list(batch))
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
    }


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield what the gate looks at: sentences, and labelled texts, that training has not seen.

    Labelled texts are repeated until they count as much as the sentences. A model could be wrong on all of a dozen
    texts otherwise, and pass.
    """
    old, old_labels = texts(sentences()[-HELD_OUT:])
    new, new_labels = labelled(HERE / "held_out" / "labels.jsonl")
    chosen = np.resize(np.arange(len(new)), len(old) if new else 0)
    found, labels = old + [new[place] for place in chosen], np.concatenate([old_labels, new_labels[chosen]])
    for first in range(0, len(found), BATCH):
        part = slice(first, first + BATCH)
        yield encoded(found[part]), labels[part]
