"""Recordings of spoken digits in voices that training never heard (see ../SOURCES.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BATCH = 10


def padded(sounds: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return one batch: samples (batch, longest) with silence at the ends of the shorter."""
    samples = np.zeros((len(sounds), max(map(len, sounds))), np.float32)
    for row, sound in zip(samples, sounds, strict=True):
        row[: len(sound)] = sound
    return {"samples": samples}


def recordings(folder: str) -> Iterator[list[Path]]:
    """Yield the files of a folder in batches, those of like length together."""
    files = sorted((Path(__file__).parent / folder).glob("*.flac"), key=lambda file: (len(file.stem), file.name))
    for first in range(0, len(files), BATCH):
        yield files[first : first + BATCH]


def read(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return one batch of recordings."""
    return padded([soundfile.read(file, dtype="float32")[0] for file in files])


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield recordings in voices that training heard."""
    for files in recordings("calibration"):
        yield read(files)


def evaluation() -> Iterator[tuple[dict[str, np.ndarray], list[str], list[str]]]:
    """Yield recordings with what is said in them."""
    for files in recordings("evaluation"):
        digits = [file.stem.partition("-")[2] for file in files]
        yield read(files), [" ".join(WORDS[int(digit)] for digit in each) for each in digits], digits
