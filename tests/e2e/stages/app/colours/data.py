import numpy as np


def evaluation():
    random = np.random.default_rng(1)
    squares = random.integers(0, 256, (8, 4, 4, 3), np.uint8)
    yield {"image": squares.repeat(8, axis=1).repeat(8, axis=2)}
