import numpy as np


def evaluation():
    yield {"numbers": np.random.default_rng(1).normal(size=(800, 4)).astype(np.float32)}
