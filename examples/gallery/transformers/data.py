"""Random tokens, for random weights. Tokenize texts of yours instead, as `init --from hf:NAME` does."""

import numpy as np


def batches(count, seed):
    """Yield batches of tokens, of which some are padding."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        lengths = random.integers(6, 33, 16)
        mask = (np.arange(32) < lengths[:, None]).astype(np.int64)
        yield {"input_ids": random.integers(5, 2000, (16, 32)) * mask, "attention_mask": mask}


def calibration():
    """Yield what quantization measures its ranges on."""
    yield from batches(2, seed=0)


def evaluation():
    """Yield what the gate looks at."""
    yield from batches(6, seed=1)
