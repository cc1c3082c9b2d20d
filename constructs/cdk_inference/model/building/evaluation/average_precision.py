"""Mean average precision of boxes, as COCO's evaluation computes it.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014, https://arxiv.org/abs/1405.0312; its tool is pycocotools.
Labels here have neither crowds nor limits of areas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.model.building.evaluation.boxes import overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

HALF: tuple[float, ...] = (0.5,)
"""The one intersection over union of PASCAL VOC."""
COCO: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Those of COCO: 0.5, 0.55, ..., 0.95."""

MOST = 100
"""Boxes of a class in a sample that count, the best ones."""

_RECALLS = np.linspace(0, 1, 101)


def mean_average_precision(expected: Sequence[Array], found: Sequence[Array], matches: Sequence[float] = COCO) -> float:
    """Return the mean over classes, and over overlaps from which boxes match, of the average precision.

    Parameters
    ----------
    expected
        (boxes, 5) of each sample: class, left, top, right and bottom edge. Classes that are nowhere expected do not
        count.
    found
        (boxes, 6) of each sample: left, top, right and bottom edge, score and class.
    matches
        The intersections over union.

    Raises
    ------
    ValueError
        If nothing is expected in any sample.
    """
    classes = np.unique(np.concatenate([wanted[:, 0] for wanted in expected]))
    if not classes.size:
        raise ValueError("expected must have a box, got none")
    return float(np.mean([_class_precisions(number, expected, found, matches) for number in classes]))


def _class_precisions(
    number: float, expected: Sequence[Array], found: Sequence[Array], matches: Sequence[float]
) -> Array:
    """Return the average precision of one class for each overlap."""
    scores, hits = [], []
    count = 0
    for wanted, given in zip(expected, found, strict=True):
        truth = wanted[wanted[:, 0] == number, 1:]
        boxes = given[given[:, 5] == number]
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[:MOST]]
        shares = np.array([overlaps(box, truth) for box in boxes]).reshape(len(boxes), len(truth))
        count += len(truth)
        scores.append(boxes[:, 4])
        hits.append(np.stack([_hits(shares, match) for match in matches]))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.array([_average_precision(row[order], count) for row in np.concatenate(hits, axis=1)])


def _hits(shares: Array, match: float) -> Array:
    """Tell which boxes, best first, match a label that no better one has taken: of equal ones, the last."""
    free = np.ones(shares.shape[1], bool)
    hits = np.zeros(len(shares), bool)
    for place, row in enumerate(shares):
        open_shares = np.where(free, row, -1.0)
        if free.any() and open_shares.max() >= match:
            free[np.flatnonzero(open_shares == open_shares.max())[-1]] = False
            hits[place] = True
    return hits


def _average_precision(hits: Array, count: int) -> float:
    """Return the mean of the best precision that is reached from each of 101 recalls on."""
    right = np.cumsum(hits)
    precisions = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precisions[::-1])[::-1]
    places = np.searchsorted(right / count, _RECALLS)
    return float(np.append(envelope, 0.0)[places].mean())
