"""A postprocessing function with a requirement."""

import inflection
import numpy as np

from inference_runtime import RejectItem


def postprocess(outputs, item):
    first, second = outputs["sums"]
    if second < 0:
        raise RejectItem("the second sum is negative")
    return {
        "sums": outputs["sums"],
        "first": first,
        "ordinal": inflection.ordinalize(int(first)),
        "object": item.key,
        "infinite": np.inf if second > 1000 else None,
    }


def repeat(outputs, item):
    return {**postprocess(outputs, item), "order": item.kept["order"]}
