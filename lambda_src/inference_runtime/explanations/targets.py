"""The number that is explained of an answer: how likely its class is, its number, or how like itself a vector stays."""

from __future__ import annotations

from math import fsum, nan, sqrt

from inference_runtime.engine.confidence import probability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from inference_runtime.tensors.tensor import Tensor


class ClassProbability:
    """The probability of the class that the model gives the item.

    Parameters
    ----------
    output
        The scores of the item, shape [1, classes].
    """

    def __init__(self, output: Tensor) -> None:
        scores = output.values()
        self._index = scores.index(max(scores))

    def scores(self, output: Tensor) -> list[float]:
        """Return the probability for each item: the softmax, or what sums up to one already as it is."""
        return [probability(row, self._index) for row in _rows(output)]

    def described(self) -> dict[str, Any]:
        """Return the class."""
        return {"class_index": self._index}


class Number:
    """The one number that the model returns."""

    def __init__(self, output: Tensor) -> None:
        """Take the output of any item: there is nothing to know of it."""

    def scores(self, output: Tensor) -> list[float]:
        """Return the number of each item."""
        return [float(row[0]) for row in _rows(output)]

    def described(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Similarity:
    """The cosine similarity of a vector with that of the whole item, which is 1.

    Parameters
    ----------
    output
        The vector of the item, shape [1, numbers].
    """

    def __init__(self, output: Tensor) -> None:
        self._vector = output.values()

    def scores(self, output: Tensor) -> list[float]:
        """Return the similarity of each item."""
        return [_cosine(row, self._vector) for row in _rows(output)]

    def described(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


def _rows(output: Tensor) -> list[Sequence[float]]:
    return [output.rows(item, item + 1).values() for item in range(len(output))]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    try:
        lengths = sqrt(fsum([value * value for value in one]) * fsum([value * value for value in other]))
        return fsum(map(float.__mul__, map(float, one), map(float, other))) / lengths if lengths else 0.0
    except (ValueError, OverflowError):  # infinities of both signs
        return nan
