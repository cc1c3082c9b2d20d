"""Two Japanese vowels, spoken by nine men, as series of 12 numbers a frame (see ../SOURCES.md)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 37


def utterances(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Read ``"train"`` or ``"test"``.

    Returns
    -------
    Utterances, each (frames, 12) float32 with 7 to 29 frames, and the number of the speaker of each, int64 from 0 to 8.
    """
    series, speakers = [], []
    with gzip.open(Path(__file__).with_name(f"{part}.ts.gz"), "rt", encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith(("#", "@")):
                *features, speaker = line.split(":")
                series.append(np.array([f.split(",") for f in features], dtype=np.float32).T)
                speakers.append(int(speaker) - 1)
    return series, np.array(speakers, dtype=np.int64)


def padded(series: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return one batch: frames (batch, longest, 12) with zeros at the ends of the shorter, and lengths (batch,)."""
    lengths = np.array([len(one) for one in series], dtype=np.int64)
    frames = np.zeros((len(series), int(lengths.max()), 12), dtype=np.float32)
    for row, one in zip(frames, series, strict=True):
        row[: len(one)] = one
    return {"frames": frames, "lengths": lengths}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield every fourth utterance of the training data."""
    series = utterances("train")[0][::4]
    for first in range(0, len(series), BATCH):
        yield padded(series[first : first + BATCH])


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, list[str]]]:
    """Yield the test data: the same men at other times, in mixed order (the file has one after the other)."""
    series, speakers = utterances("test")
    for rows in np.split(np.random.default_rng(0).permutation(len(series)), len(series) // BATCH):
        names = [f"speaker {speakers[row] + 1}, {len(series[row])} frames" for row in rows]
        yield padded([series[row] for row in rows]), speakers[rows], names
