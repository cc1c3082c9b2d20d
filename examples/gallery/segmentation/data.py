"""Draws pictures of shapes, and the masks that say what each pixel shows."""

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("background", "circle", "square")
SIZE = 48


def draw(random):
    """Return a picture with up to three shapes, and its mask: a class for each pixel."""
    paper = random.integers(150, 256, 3)
    picture = Image.fromarray((paper + random.integers(-20, 1, (SIZE, SIZE, 3))).astype(np.uint8))
    mask = Image.new("L", (SIZE, SIZE))
    for _ in range(random.integers(1, 4)):
        radius = random.uniform(5, 11)
        x, y = random.uniform(radius, SIZE - radius, 2)
        box = (x - radius, y - radius, x + radius, y + radius)
        ink, shape = tuple(random.integers(0, 110, 3).tolist()), int(random.integers(1, 3))
        for image, fill in ((picture, ink), (mask, shape)):
            pen = ImageDraw.Draw(image)
            (pen.ellipse if shape == 1 else pen.rectangle)(box, fill=fill)
    return np.asarray(picture), np.asarray(mask)


def pictures(count, seed):
    """Return pictures, (count, 48, 48, 3) uint8, and masks, (count, 48, 48) int64."""
    random = np.random.default_rng(seed)
    drawn, masks = zip(*(draw(random) for _ in range(count)), strict=True)
    return np.stack(drawn), np.stack(masks).astype(np.int64)


def calibration():
    """Yield what quantization measures its ranges on."""
    yield {"pictures": pictures(60, seed=1)[0]}


def evaluation():
    """Yield pictures that training has not seen, with their masks."""
    for seed in range(2, 6):
        drawn, masks = pictures(25, seed)
        yield {"pictures": drawn}, masks
