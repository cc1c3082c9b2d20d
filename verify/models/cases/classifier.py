"""Photographs for the cases of EfficientNet-Lite, and the labels that a person would accept for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from case import Run
from crops import crop
from PIL import Image

FOLDER = Path(__file__).parent
CROPS = [(share, x, 0.5, mirror) for share in (0.95, 0.85, 0.7) for x in (0.4, 0.6) for mirror in (False, True)]


def samples(size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of a photograph, and one of its crops."""
    for path in sorted(each for each in (FOLDER / "photographs").iterdir() if each.suffix in (".jpg", ".png")):
        image = Image.open(path).convert("RGB")
        for one in CROPS:
            yield path.name, crop(image, size, *one)


def labels(run: Run, size: int) -> list[tuple[str, str]]:
    """Return the name of each photograph, and the best label."""
    names = (FOLDER / "labels.txt").read_text("utf-8").splitlines()
    return [(name, names[run({"images": image[None]})["logits"].argmax()]) for name, image in samples(size)]


def accepted(answers: list[tuple[str, str]]) -> list[bool]:
    """Tell which labels a person would accept."""
    wanted = json.loads((FOLDER / "accepted.json").read_text("utf-8"))
    return [label in wanted[name] for name, label in answers]
