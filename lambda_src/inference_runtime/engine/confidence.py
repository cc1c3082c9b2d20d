"""How sure the model is of each item, for a cascade to decide by."""

from __future__ import annotations

from math import exp, nan, prod

from inference_runtime.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference_runtime.tensors.tensor import Tensor

DIGITS = 6

_SCORES = 2  # axes at least: items and classes


def confidences(scores: Tensor) -> list[float]:
    """Return each item's highest softmax over the last axis; what sums up to one already is taken as it is.

    Each item is judged by itself, so that it gets the same confidence in any batch. With more axes between items and
    classes, an item is as sure as where it is least so. One whose scores are not numbers is not sure at all.

    Raises
    ------
    StageError
        If the scores have no classes.
    """
    if len(scores.shape) < _SCORES or not scores.shape[-1] or scores.dtype == "string":
        raise StageError(f"confidence needs scores of shape [items, ..., classes], the model's are {scores.shape}")
    classes, places = scores.shape[-1], prod(scores.shape[1:-1])
    # One item's numbers at a time: as Python's, they take ten times the memory of the tensor.
    items = (scores.rows(item, item + 1).values() for item in range(len(scores)))
    return [_confidence([values[n * classes : (n + 1) * classes] for n in range(places)]) for values in items]


def probability(row: Sequence[float], place: int) -> float:
    """Return the softmax of one of the scores; what sums up to one already is taken as it is.

    NaN if a score is not a number, or infinite.
    """
    if _sums_to_one(row):
        return row[place]
    highest = max(row)
    total = sum([exp(value - highest) for value in row])
    return exp(row[place] - highest) / total if total == total else nan  # noqa: PLR0124 - whether it is NaN


def _confidence(rows: list[Sequence[float]]) -> float:
    sums_to_one = all(map(_sums_to_one, rows))
    return round(min([1.0, *((max(row) if sums_to_one else _softmax(row)) for row in rows)]), DIGITS)


def _sums_to_one(row: Sequence[float]) -> bool:
    # The formula and the tolerance of the build, which calibrates the threshold: evaluation/metrics.py.
    return min(row) >= 0 and abs(sum(row) - 1) <= 1e-3 + 1e-5


def _softmax(row: Sequence[float]) -> float:
    """Return the highest softmax; 0 if there is none, with what is not a number or infinite."""
    highest = max(row)
    total = sum([exp(value - highest) for value in row])
    return 1 / total if total == total else 0.0  # noqa: PLR0124 - whether it is NaN
