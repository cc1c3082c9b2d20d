"""An object is a number; what is stored is its double."""

import numpy as np


def preprocess(data, item):
    return np.full(8192, float(data), np.float32)


def postprocess(outputs, item):
    return {"sum": outputs["sums"][0]}
