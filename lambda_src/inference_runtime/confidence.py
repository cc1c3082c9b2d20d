"""How sure the model is of each item, for a cascade to decide by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from inference_runtime.tensors import Array

DIGITS = 6

_SCORES = 2  # axes at least: items and classes


def confidences(scores: Array) -> list[float]:
    """Return each item's highest softmax over the last axis; what sums up to one already is taken as it is.

    Each item is judged by itself, so that it gets the same confidence in any batch. With more axes between items and
    classes, an item is as sure as where it is least so. One whose scores are no numbers is not sure at all.

    Raises
    ------
    StageError
        If the scores have no classes.
    """
    if scores.ndim < _SCORES or not scores.shape[-1]:
        raise StageError(f"confidence needs scores of shape [items, ..., classes], the model's are {scores.shape}")
    values = scores.astype(np.float64).reshape(len(scores), -1, scores.shape[-1])
    # The formula and the tolerance of the build, which calibrates the threshold: model/build/metrics.py.
    sums_to_one = np.isclose(values.sum(axis=-1), 1.0, atol=1e-3).all(axis=1) & (values >= 0).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
        softmax = exponentials.max(axis=-1) / exponentials.sum(axis=-1)
    highest = np.where(sums_to_one[:, None], values.max(axis=-1), softmax).min(axis=1, initial=1.0)
    return [round(float(value), DIGITS) for value in np.nan_to_num(highest, nan=0.0)]
