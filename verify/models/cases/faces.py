"""Faces in photographs, and layers, for the cases of facenet-pytorch."""

from __future__ import annotations

import numpy as np
from pictures import FOLDER, photographs
from PIL import Image
from torch import nn

BOXES = {"astronaut.jpg": (103, 41, 177, 115), "hopper.jpg": (98, 83, 232, 217)}
"""Squares around faces of the photographs for calibration: left, top, right and bottom in pixels."""


def scaled(image: Image.Image) -> np.ndarray:
    """Return channels first, as the networks were trained."""
    return ((np.asarray(image, np.float32) - 127.5) / 128).transpose(2, 0, 1)


def crops(seed: int, name: str, count: int, side: int) -> list[np.ndarray]:
    """Return crops around a face, moved, scaled, mirrored and dimmed; every second is of a photograph without one."""
    random = np.random.default_rng(seed)
    face = Image.open(FOLDER / "calibration" / name).convert("RGB")
    others = photographs("photographs" if seed == 3 else "evaluation")
    left, top, right, _ = BOXES[name]
    found = []
    for number in range(count):
        if number % 2:
            image = others[random.integers(len(others))]
            size = random.uniform(0.2, 0.5) * min(image.size)
            x, y = (random.uniform(0, whole - size) for whole in image.size)
        else:
            image = face
            size = (right - left) * random.uniform(0.9, 1.2)
            x, y = (start - (size - (right - left)) / 2 + random.normal() * 3 for start in (left, top))
        part = image.resize((side, side), Image.Resampling.BILINEAR, box=(x, y, x + size, y + size))
        pixels = scaled(part) * random.uniform(0.6, 1.1)
        found.append((pixels[:, :, ::-1] if random.random() < 0.5 else pixels).astype(np.float32))
    return found


def convolution(inputs: int, outputs: int, kernel: int, number: int) -> dict[str, nn.Module]:
    """Return a convolution and its activation, by their names in the weights."""
    return {f"conv{number}": nn.Conv2d(inputs, outputs, kernel), f"prelu{number}": nn.PReLU(outputs)}
