"""Turns a photograph into the numbers that the network takes: for preprocessing, and for the data of the build."""

import numpy as np
from PIL import Image

SIZE = 320


def to_tensor(photograph):
    """Return the photograph in the upper left of a black square, (3, 320, 320) float32 from 0 to 1."""
    side = max(photograph.size)
    square = Image.new("RGB", (side, side))
    square.paste(photograph.convert("RGB"))
    pixels = np.asarray(square.resize((SIZE, SIZE)), np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
