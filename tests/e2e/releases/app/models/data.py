import numpy as np


def evaluation():
    yield {"numbers": np.random.default_rng(1).uniform(0, 1, size=(32, 4)).astype(np.float32)}
