import numpy as np


def evaluation():
    yield {"numbers": np.random.default_rng(1).normal(size=(8, 64, 128)).astype(np.float32)}
