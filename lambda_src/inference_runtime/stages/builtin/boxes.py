"""Reads boxes from what detectors return, which differs from one family of models to the next.

The build judges models by the same boxes: evaluation/boxes.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from inference_runtime.tensors.tensor import Array

    Visible = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.bool_]]
    Read = Callable[[Mapping[str, Array], float, int, Visible], "Boxes"]

MOST_CANDIDATES = 30_000
"""Boxes that are compared with each other, at most: the best of them, as Ultralytics does."""

_FARTHEST = 1e9  # pixels; keeps areas finite, whatever a model says
_TOLERANCE = 1e-3  # rounding of scores that a model computes in half precision
_SIDES = 4
_SCORE, _CLASS = 4, 5


class Boxes(NamedTuple):
    """Boxes above a score, best first.

    Attributes
    ----------
    corners
        (n, 4), each (left, top, right, bottom).
    scores
        (n,), in [0, 1].
    classes
        (n,), indices.
    """

    corners: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


def reader_of(head: Mapping[str, Any]) -> Read:
    """Return the function that reads the boxes of a head: `read(outputs, min_score, most, visible)`.

    `visible` returns which boxes count, of corners (n, 4) as the model has them. The others take no place among the
    most boxes, and hide none that overlap them.

    Parameters
    ----------
    head
        Its `kind`, and the parameters of the function for this kind. With `iou`, boxes go that overlap a better one of
        their class by more.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    options = dict(head)
    kind = options.pop("kind", None)
    if kind not in _READERS:
        raise ValueError(f"head.kind is {kind!r}, expected one of {', '.join(_READERS)}")
    candidates = _READERS[kind]
    iou = options.pop("iou", None)

    def read(outputs: Mapping[str, Array], min_score: float, most: int, visible: Visible) -> Boxes:
        found = candidates(outputs, min_score, **options)
        found = _chosen(found, visible(found.corners))
        return _chosen(found, slice(most)) if iou is None else _without_overlaps(found, iou, most)

    return read


def _yolo(outputs: Mapping[str, Array], min_score: float, *, output: str, channels: int, objectness: bool) -> Boxes:
    """Read centre, size and scores of each place."""
    values = _output(outputs, output, 2)
    rows = values if channels == 0 else values.T
    first = _SIDES + objectness
    scores = rows[first:].max(axis=0)
    if objectness:
        scores = scores * rows[_SIDES]
    best = _best(scores, min_score)
    corners = _corners(rows[:_SIDES, best].T)
    return Boxes(corners, _checked(scores, best), rows[first:, best].argmax(axis=0).astype(np.int64))


def _detr(outputs: Mapping[str, Array], min_score: float, *, logits: str, boxes: str, activation: str) -> Boxes:
    """Read the best class of each query; with softmax, the last class stands for no object."""
    values = _output(outputs, logits, 2).astype(np.float64)
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        likely = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
    else:
        likely = 1 / (1 + np.exp(-np.clip(values, -500, 500)))
    scores = likely.max(axis=1)
    best = _best(scores, min_score)
    corners = _corners(_output(outputs, boxes, 2)[best])
    return Boxes(corners, scores[best], likely[best].argmax(axis=1).astype(np.int64))


def _end_to_end(outputs: Mapping[str, Array], min_score: float, *, output: str) -> Boxes:
    """Read rows of corners, score and class, which the graph chose."""
    rows = _output(outputs, output, 2)
    best = _best(rows[:, _SCORE], min_score)
    return Boxes(_bounded(rows[best, :_SIDES]), _checked(rows[:, _SCORE], best), _integers(rows[best, _CLASS]))


def _nms(
    outputs: Mapping[str, Array],
    min_score: float,
    *,
    boxes: str,
    scores: str,
    classes: str,
    corners: str,
    first_class: int,
) -> Boxes:
    """Read boxes, scores and classes from an output each, which the graph chose."""
    values = _output(outputs, scores, 1)
    best = _best(values, min_score)
    edges = _output(outputs, boxes, 2)[best]
    if corners == "yxyx":
        edges = edges[:, [1, 0, 3, 2]]
    return Boxes(_bounded(edges), _checked(values, best), _integers(_output(outputs, classes, 1)[best]) - first_class)


_READERS: dict[str, Callable[..., Boxes]] = {"yolo": _yolo, "detr": _detr, "end_to_end": _end_to_end, "nms": _nms}


def _output(outputs: Mapping[str, Array], name: str, axes: int) -> Array:
    # Wrong options, not a wrong object: these raise what makes the runtime keep the message for after the fix.
    if name not in outputs:
        raise RuntimeError(f"head names the output {name!r}, but the model returns {sorted(outputs)}")
    array = outputs[name]
    if array.ndim != axes:
        raise RuntimeError(f"the model's output {name!r} has shape {list(array.shape)}, expected {axes} axes")
    return array


def _best(scores: Array, min_score: float) -> npt.NDArray[np.intp]:
    """Return where the scores are that count, best first; of equal ones, the first."""
    found = np.flatnonzero(scores >= min_score)
    return found[np.argsort(-scores[found].astype(np.float64), kind="stable")[:MOST_CANDIDATES]]


def _checked(scores: Array, best: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    if scores.size and (scores.min() < -_TOLERANCE or scores.max() > 1 + _TOLERANCE):
        raise RuntimeError("scores are not in [0, 1]: the head does not fit the model, or the graph lacks its sigmoid")
    return scores[best].astype(np.float64).clip(0, 1)


def _corners(boxes: Array) -> npt.NDArray[np.float64]:
    """Return the corners of boxes that are given by centre, width and height."""
    values = _bounded(boxes)
    centres, halves = values[:, :2], values[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _bounded(values: Array) -> npt.NDArray[np.float64]:
    return values.astype(np.float64).clip(-_FARTHEST, _FARTHEST)


def _integers(classes: Array) -> npt.NDArray[np.int64]:
    return np.rint(_bounded(classes)).astype(np.int64)


def _without_overlaps(boxes: Boxes, iou: float, most: int) -> Boxes:
    """Keep boxes, best first, unless they overlap a better one of their class by more than this: greedy NMS."""
    areas = _areas(boxes.corners)
    free = np.ones(len(areas), bool)
    kept: list[int] = []
    for best in range(len(areas)):
        if not free[best]:
            continue
        kept.append(best)
        if len(kept) == most:
            break
        later = slice(best + 1, None)
        rivals = best + 1 + np.flatnonzero(free[later] & (boxes.classes[later] == boxes.classes[best]))
        one, others = boxes.corners[best], boxes.corners[rivals]
        shared = _areas(
            np.concatenate([np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])], axis=1)
        )
        free[rivals[shared > iou * (areas[best] + areas[rivals] - shared)]] = False
    return _chosen(boxes, kept)


def _chosen(boxes: Boxes, which: npt.NDArray[np.bool_] | list[int] | slice) -> Boxes:
    return Boxes(boxes.corners[which], boxes.scores[which], boxes.classes[which])


def _areas(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides: npt.NDArray[np.float64] = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])
