"""Draws pictures of circles, squares and triangles."""

import sys

import numpy as np
from PIL import Image, ImageDraw

LABELS = ("circle", "square", "triangle")
SIDES = {"square": 4, "triangle": 3}


def draw(label, random, size=32):
    """Return a picture of one shape in a random place and color."""
    light, dark = random.integers(160, 256, 3).tolist(), random.integers(0, 96, 3).tolist()
    picture = Image.new("RGB", (size, size), tuple(light))
    radius = random.uniform(0.2, 0.4) * size
    x, y = random.uniform(radius, size - radius, 2)
    pen = ImageDraw.Draw(picture)
    if label == "circle":
        pen.circle((x, y), radius, fill=tuple(dark))
    else:
        pen.regular_polygon((x, y, radius), SIDES[label], fill=tuple(dark))
    return picture


def pictures(count, seed):
    """Return pictures, (count, 32, 32, 3) uint8, and the number of each one's label."""
    random = np.random.default_rng(seed)
    numbers = random.integers(len(LABELS), size=count)
    return np.stack([np.asarray(draw(LABELS[number], random)) for number in numbers]), numbers


def calibration():
    """Yield what quantization measures its ranges on."""
    yield {"pictures": pictures(100, seed=1)[0]}


def evaluation():
    """Yield pictures that training has not seen, with their labels."""
    images, numbers = pictures(200, seed=2)
    yield {"pictures": images}, numbers


if __name__ == "__main__":
    wanted = sys.argv[1]
    draw(wanted, np.random.default_rng(3), size=300).save(f"{wanted}.png")
