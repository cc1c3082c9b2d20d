"""Synthetic images: coloured gradients with rectangles and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 224
BATCH = 8


def picture(random: np.random.Generator) -> np.ndarray:
    """Return one image, (224, 224, 3) uint8."""
    corners = random.uniform(0, 255, (2, 2, 3))
    across = np.linspace(0, 1, SIZE)
    down = corners[0] + (corners[1] - corners[0]) * across[:, None, None]
    image = down[:, :1] + (down[:, 1:] - down[:, :1]) * across[None, :, None]
    for _ in range(random.integers(2, 9)):
        top, left = random.integers(0, SIZE - 8, 2)
        height, width = random.integers(8, SIZE // 2, 2)
        image[top : top + height, left : left + width] = random.uniform(0, 255, 3)
    noisy = image + random.normal(0, random.uniform(0, 30), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def batches(seed: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of 8 images."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {"images": np.stack([picture(random) for _ in range(BATCH)])}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Yield 32 images."""
    return batches(0, 4)


def evaluation() -> Iterator[dict[str, np.ndarray]]:
    """Yield 32 other images."""
    return batches(1, 4)
