"""Calibration and evaluation images: crops of the photographs beside this file (see ../SOURCES.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 224
CENTRE = (0.875, 0.5, 0.5, False)

# (share of the short side, horizontal and vertical position from 0 to 1, mirrored)
CALIBRATION_CROPS = (
    CENTRE,
    (1.0, 0.0, 0.0, True),
    (1.0, 1.0, 1.0, False),
    (0.6, 0.1, 0.2, False),
    (0.6, 0.9, 0.8, True),
    (0.45, 0.5, 0.5, False),
)
# Many, because a single near tie (tiger cat or Egyptian cat) must not decide about the gate.
EVALUATION_CROPS = tuple(
    (share, x, y, mirror)
    for share in (0.65, 0.75, 0.875, 1.0)
    for x, y in ((0.5, 0.5), (0.3, 0.35), (0.7, 0.65))
    for mirror in (False, True)
)


def crop(image: Image.Image, share: float, x: float, y: float, mirror: bool) -> np.ndarray:
    """Return a square part of the image, (224, 224, 3) uint8 RGB.

    Parameters
    ----------
    share
        Side of the square as a share of the image's short side.
    x, y
        Position between the left or top edge (0) and the right or bottom edge (1).
    """
    side = min(image.size) * share
    left, top = (image.width - side) * x, (image.height - side) * y
    box = (left, top, left + side, top + side)
    part = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    return np.asarray(ImageOps.mirror(part) if mirror else part)


def batches(folder: str, crops: tuple[tuple[float, float, float, bool], ...]) -> Iterator[dict[str, np.ndarray]]:
    """Yield one batch of crops per photograph."""
    for path in sorted((Path(__file__).parent / folder).glob("*.jpg")):
        with Image.open(path) as image:
            yield {"images": np.stack([crop(image, *c) for c in crops])}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield what the ranges of the activations are measured on: varied crops of varied photographs."""
    return batches("calibration", CALIBRATION_CROPS)


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    """Yield what the gate looks at: other photographs, cropped like those that will be uploaded."""
    return batches("evaluation", EVALUATION_CROPS)
