"""An object is a number, and perhaps a cell of 8 x 8 with more of it, `2@27`; what is stored is its double."""

import numpy as np


def preprocess(data, item):
    number, _, cell = data.decode().partition("@")
    numbers = np.full((8, 8, 8, 16), float(number), np.float32)
    if cell:
        numbers[int(cell) // 8, :, int(cell) % 8] *= 10
    return numbers.reshape(64, 128)


def postprocess(outputs, item):
    return {"sum": outputs["sums"][0]}
