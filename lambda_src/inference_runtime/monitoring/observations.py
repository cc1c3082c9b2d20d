"""Numbers that tell what an item is like, and the bins that they fall into.

The build computes the same numbers of the evaluation data, for the baseline: model/building/evaluation/baseline.py.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import cache
from hashlib import shake_256
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference_runtime.environment import json_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from inference_runtime.tensors.tensor import Array

    Floats = npt.NDArray[np.floating[Any]]


class Observed(NamedTuple):
    """A number that is observed of each item.

    Parameters
    ----------
    tensor
        Name of the input or output.
    kind
        Which number of it: a key of `KINDS`, or ``"feature"`` or ``"projection"`` with a number behind.
    edges
        Where each bin but the first begins, ascending.
    """

    tensor: str
    kind: str
    edges: Sequence[float]


def observed_in(variable: str) -> list[Observed]:
    """Return what a variable says is to be observed; nothing if there is none."""
    if variable not in os.environ:
        return []
    return [Observed(tensor, kind, edges) for tensor, kind, edges in json_variable(variable, list)]


def bins_of(observed: Iterable[Observed], arrays: Mapping[str, Array]) -> list[int]:
    """Return the bin of each number, of one item's inputs or outputs by name."""
    return [bisect_right(one.edges, value(one.kind, arrays[one.tensor])) for one in observed]


def value(kind: str, array: Array) -> float:
    """Return a number of one item's tensor."""
    name, _, place = kind.partition(" ")
    values = array.astype(np.float64)
    if name == "feature":
        return float(values.reshape(-1)[int(place)])
    if name == "projection":
        return float(values.reshape(-1) @ signs(int(place), values.size))
    return float(KINDS[name](values))


@cache
def signs(number: int, count: int) -> Floats:
    """Return the same signs on every machine: a direction to look at a vector from."""
    bits = np.frombuffer(shake_256(bytes([number])).digest((count + 7) // 8), np.uint8)
    return np.unpackbits(bits, count=count) * 2.0 - 1


def _probabilities(scores: Floats) -> Floats:
    # The rule of engine/confidence.py: what sums up to one already is taken as it is.
    flat = scores.reshape(-1)
    if flat.min() >= 0 and abs(flat.sum() - 1) <= 1e-3 + 1e-5:
        return flat
    exponentials = np.exp(flat - flat.max())
    return np.asarray(exponentials / exponentials.sum())


def _margin(scores: Floats) -> Any:  # noqa: ANN401 - a number of NumPy's
    second, first = np.partition(_probabilities(scores), -2)[-2:]
    return first - second


def _entropy(scores: Floats) -> Any:  # noqa: ANN401 - a number of NumPy's
    shares = _probabilities(scores)
    shares = shares[shares > 0]
    return -(shares * np.log(shares)).sum() / np.log(scores.size)


def _sharpness(image: Floats) -> float:
    axes = np.argsort(image.shape, kind="stable")[-2:]
    return float(sum(np.abs(np.diff(image, axis=axis)).mean() for axis in axes if image.shape[axis] > 1))


KINDS: dict[str, Callable[[Floats], Any]] = {
    "label": np.argmax,
    "confidence": lambda scores: _probabilities(scores).max(),
    "margin": _margin,
    "entropy": _entropy,
    "mean": np.mean,
    "length": np.linalg.norm,
    "brightness": np.mean,
    "contrast": np.std,
    "sharpness": _sharpness,
    "tokens": np.sum,
    "size": np.size,
}
"""Numbers of a tensor, by name: entropy is a share of the largest possible one; sharpness is that of the long axes."""
