"""Handwritten digits of 8 x 8 pixels with 17 grey levels, and what they are (see ../SOURCES.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

# The end of the file, not a random part: it appears to be grouped by writer, so that these are mostly other hands.
HELD_OUT = 450
BATCH = 50


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, (1797, 8, 8) uint8 from 0 to 16, and their digits, (1797,) int64."""
    table = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


def training() -> tuple[np.ndarray, np.ndarray]:
    """Return what the network is trained on."""
    images, labels = digits()
    return images[:-HELD_OUT], labels[:-HELD_OUT]


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield what the ranges of the activations are measured on: a part of the training data."""
    images, _ = training()
    for first in range(0, 400, BATCH):
        yield {"images": images[first : first + BATCH]}


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, list[str]]]:
    """Yield what the gate looks at: digits that training has not seen, with their labels."""
    images, labels = digits()
    images, labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    for first in range(0, HELD_OUT, BATCH):
        part = slice(first, first + BATCH)
        yield {"images": images[part]}, labels[part], [f"a {label}" for label in labels[part]]
