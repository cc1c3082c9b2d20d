"""Reads boxes from what detectors return, as the runtime does in builtin/boxes.py, and compares them.

Boxes of a class match from an intersection over union of 0.5. The best score comes first, and each labelled box counts
once: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010, section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cdk_inference.model.recipe.heads import BoxLayout

    Array = np.ndarray[Any, Any]
    Outputs = Mapping[str, Array]

MATCH = 0.5
MOST = 300
"""Boxes of a sample that are looked at, the best ones."""

_CANDIDATES = 30_000
_FARTHEST = 1e9
_SIDES = 4
_LABEL = 5  # numbers of a labelled box: class and edges


def find(outputs: Outputs, layout: BoxLayout, least: float) -> Array:
    """Return the boxes of one sample, (boxes, 6): left, top, right and bottom edge, score and class, best first.

    Parameters
    ----------
    outputs
        The sample's outputs by name, without the batch.
    layout
        Where they have boxes, scores and classes.
    least
        The lowest score of a box that counts.
    """
    options = dict(layout.head)
    return _READERS[str(options.pop("kind"))](outputs, least, **options)[:MOST]


def f1(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Return the F1 score of boxes that were found in samples: the harmonic mean of precision and recall.

    Parameters
    ----------
    expected
        (boxes, 5) of each sample: class, left, top, right and bottom edge.
    found
        (boxes, 6) of each sample, see `find`.
    """
    hits = sum(_matches(wanted, given) for wanted, given in zip(expected, found, strict=True))
    return 2 * hits / (sum(map(len, expected)) + sum(map(len, found)))


def check_some(expected: Sequence[Array], metric: str) -> None:
    """Make sure that samples have objects.

    Raises
    ------
    ModelBuildError
        If nothing is expected in any sample.
    """
    if not any(map(len, expected)):
        raise ModelBuildError(
            f"evaluation.data must have samples with objects for metric '{metric}', got none, so that a model that "
            "never finds any would pass; add samples, or lower min_confidence"
        )


def labelled(found: Array) -> Array:
    """Return boxes that were found in the form of labels."""
    return found[:, [5, 0, 1, 2, 3]]


def check_labels(labels: object, where: str) -> Array:
    """Return the labels of a sample as an array (boxes, 5).

    Raises
    ------
    ModelBuildError
        They have another shape, or are not numbers.
    """
    array = np.asarray(labels)
    if array.size == 0:
        return np.zeros((0, _LABEL))
    if array.ndim != 2 or array.shape[1] != _LABEL or array.dtype.kind not in "fiu":  # noqa: PLR2004
        raise ModelBuildError(
            f"{where} must be numbers (boxes, 5) for each sample: class, left, top, right and bottom, got "
            f"{array.dtype} {array.shape}"
        )
    return array.astype(np.float64)


def _yolo(outputs: Outputs, least: float, *, output: str, channels: int, objectness: bool, iou: float) -> Array:
    rows = outputs[output] if channels == 0 else outputs[output].T
    first = _SIDES + objectness
    scores = rows[first:].max(axis=0) * (rows[_SIDES] if objectness else 1)
    best = _best(scores, least)
    boxes = _boxes(_corners(rows[:_SIDES, best].T), scores[best], rows[first:, best].argmax(axis=0))
    kept: list[int] = []
    left = np.arange(len(boxes))
    while left.size and len(kept) < MOST:
        one, left = int(left[0]), left[1:]
        kept.append(one)
        covers = overlaps(boxes[one], boxes[left]) > iou
        left = left[~(covers & (boxes[left, 5] == boxes[one, 5]))]
    return np.asarray(boxes[kept])


def _detr(outputs: Outputs, least: float, *, logits: str, boxes: str, activation: str) -> Array:
    values = outputs[logits].astype(np.float64)
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        likely = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
    else:
        likely = 1 / (1 + np.exp(-values.clip(-500, 500)))
    scores = likely.max(axis=1)
    best = _best(scores, least)
    return _boxes(_corners(outputs[boxes][best]), scores[best], likely[best].argmax(axis=1))


def _end_to_end(outputs: Outputs, least: float, *, output: str) -> Array:
    rows = outputs[output]
    best = _best(rows[:, 4], least)
    return _boxes(_bounded(rows[best, :4]), rows[best, 4], np.rint(rows[best, 5]))


def _nms(
    outputs: Outputs, least: float, *, boxes: str, scores: str, classes: str, corners: str, first_class: int
) -> Array:
    best = _best(outputs[scores], least)
    edges = outputs[boxes][best]
    edges = edges[:, [1, 0, 3, 2]] if corners == "yxyx" else edges
    return _boxes(_bounded(edges), outputs[scores][best], np.rint(outputs[classes][best]) - first_class)


_READERS: dict[str, Callable[..., Array]] = {"yolo": _yolo, "detr": _detr, "end_to_end": _end_to_end, "nms": _nms}


def _best(scores: Array, least: float) -> Array:
    found = np.flatnonzero(scores >= least)
    return np.asarray(found[np.argsort(-scores[found].astype(np.float64), kind="stable")[:_CANDIDATES]])


def _corners(boxes: Array) -> Array:
    values = _bounded(boxes)
    centres, halves = values[:, :2], values[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _boxes(corners: Array, scores: Array, classes: Array) -> Array:
    return np.concatenate([corners, scores[:, None], classes[:, None]], axis=1, dtype=np.float64)


def _bounded(values: Array) -> Array:
    return values.astype(np.float64).clip(-_FARTHEST, _FARTHEST)


def overlaps(one: Array, others: Array) -> Array:
    """Return the intersection over the union of a box with each of the others."""
    shared = _areas(np.maximum(one[:2], others[:, :2]), np.minimum(one[2:4], others[:, 2:4]))
    together = _areas(one[None, :2], one[None, 2:4]) + _areas(others[:, :2], others[:, 2:4]) - shared
    return np.asarray(np.divide(shared, together, out=np.zeros_like(shared), where=together > 0))


def _areas(low: Array, high: Array) -> Array:
    return np.asarray(np.prod(np.maximum(high - low, 0), axis=1))


def _matches(expected: Array, found: Array) -> int:
    free = np.ones(len(expected), bool)
    for box in found:
        shares = overlaps(box, expected[:, 1:]) * (free & (expected[:, 0] == box[5]))
        if shares.size and shares.max() >= MATCH:
            free[shares.argmax()] = False
    return int((~free).sum())
