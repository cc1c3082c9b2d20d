"""How far the answers of two models to the same object are apart, by the metric of the build's gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference_runtime.tensors.tensor import Array

_TOP = {"top1_agreement": 1, "top5_agreement": 5}


def finite(outputs: Sequence[Array]) -> bool:
    """Tell whether all floats of an answer are numbers."""
    return all(bool(np.isfinite(array).all()) for array in outputs if array.dtype.kind == "f")


def disagreement(
    stable: Sequence[Array], candidate: Sequence[Array], *, metric: str, min_confidence: float = 0.0
) -> float | None:
    """Return how far two answers are apart, from 0 to 1; None if the stable model is not sure enough to tell.

    Parameters
    ----------
    stable, candidate
        The outputs for one object, in the models' order.
    metric
        ``"top1_agreement"`` and ``"top5_agreement"``: the share of positions at which the stable model's class is not
        among the candidate's best; other outputs do not count. ``"cosine"``: 1 minus the cosine similarity of all
        outputs as one vector, and at most 1.
    min_confidence
        Only positions count of which the stable model is this sure.
    """
    if metric == "cosine":
        return _cosine_distance(stable, candidate)
    places = _TOP[metric]
    output = next((i for i, array in enumerate(stable) if array.dtype.kind == "f" and array.shape[-1:] > (places,)), 0)
    scores, others = np.asarray(stable[output], np.float64), np.asarray(candidate[output], np.float64)
    if scores.shape != others.shape:
        return 1.0
    sure = _confidences(scores) >= min_confidence
    if not sure.any():
        return None
    best = np.argsort(-others, axis=-1, kind="stable")[..., :places]
    hit = np.any(best == np.argmax(scores, axis=-1)[..., None], axis=-1)
    return float(1 - np.mean(hit[sure]))


def _cosine_distance(stable: Sequence[Array], candidate: Sequence[Array]) -> float:
    if [array.shape for array in stable] != [array.shape for array in candidate]:
        return 1.0
    one, other = (
        np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in outputs])
        for outputs in (stable, candidate)
    )
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        return 0.0 if np.array_equal(one, other) else 1.0
    return float(np.clip(1 - one @ other / lengths, 0.0, 1.0))


def _confidences(scores: Array) -> Array:
    """Return the highest softmax along the last axis; what sums up to one already is taken as it is."""
    if scores.size and scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3):
        return np.asarray(np.minimum(scores.max(axis=-1), 1.0))
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials.max(axis=-1) / exponentials.sum(axis=-1))
