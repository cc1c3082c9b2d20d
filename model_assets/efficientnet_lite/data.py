"""Calibration and evaluation images: crops of the photographs beside this file (see ../SOURCES.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator

Crop = tuple[float, float, float, bool]
"""Share of the short side, horizontal and vertical position from 0 to 1, mirrored."""

CENTRE: Crop = (0.875, 0.5, 0.5, False)
CALIBRATION_CROPS: tuple[Crop, ...] = (CENTRE, (1.0, 0.0, 0.0, True), (0.6, 0.9, 0.8, False))
# Many, because a single near tie (tiger cat or Egyptian cat) must not decide about the gate.
EVALUATION_CROPS: tuple[Crop, ...] = tuple(
    (share, x, y, mirror)
    for share in (0.875, 0.65, 0.75, 1.0)
    for x, y in ((0.5, 0.5), (0.3, 0.35), (0.7, 0.65))
    for mirror in (False, True)
)


def crop(image: Image.Image, size: int, share: float, x: float, y: float, mirror: bool) -> np.ndarray:
    """Return a square part of the image, (size, size, 3) uint8 RGB.

    Parameters
    ----------
    size
        Width and height of the result in pixels.
    share
        Side of the square as a share of the image's short side.
    x, y
        Position between the left or top edge (0) and the right or bottom edge (1).
    mirror
        Whether left and right change places.
    """
    side = min(image.size) * share
    left, top = (image.width - side) * x, (image.height - side) * y
    box = (left, top, left + side, top + side)
    part = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(ImageOps.mirror(part) if mirror else part)


def batches(folder: str, crops: tuple[Crop, ...], size: int) -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield the photographs of a folder, one batch per crop, with their names."""
    names, images = [], []
    for path in sorted((Path(__file__).parent / folder).glob("*.jpg")):
        names.append(path.stem)
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    for one in crops:
        yield {"images": np.stack([crop(image, size, *one) for image in images])}, None, names


def calibration_224() -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield what the ranges of Lite0's activations are measured on: varied crops of varied photographs."""
    return batches("calibration", CALIBRATION_CROPS, 224)


def calibration_260() -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield the same for Lite2."""
    return batches("calibration", CALIBRATION_CROPS, 260)


def evaluation_224() -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield what Lite0's gate looks at: other photographs, cropped like those that will be uploaded."""
    return batches("evaluation", EVALUATION_CROPS, 224)


def evaluation_260() -> Iterator[tuple[dict[str, np.ndarray], None, list[str]]]:
    """Yield the same for Lite2."""
    return batches("evaluation", EVALUATION_CROPS, 260)
