"""Compares the classes of pixels: the mean intersection over union.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015, section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.recipe.heads import MaskLayout

    Array = np.ndarray[Any, Any]

MOST_CLASSES = 255

NO_CLASS = 255
"""Pixels with this label count nowhere, as in PASCAL VOC; nor do those below 0."""


def classes_of(output: Array, layout: MaskLayout) -> Array:
    """Return the class of each pixel of a batch, (samples, height, width)."""
    if layout.threshold is not None:
        scores = output if layout.axis is None else output.take(0, axis=layout.axis + 1)
        return np.asarray(scores > layout.threshold, np.uint8)
    return output if layout.axis is None else np.asarray(output.argmax(axis=layout.axis + 1))


def mean_iou(expected: Sequence[Array], found: Sequence[Array], classes: int | None) -> float:
    """Return the mean over the classes that occur of the intersection over union of their pixels in all samples.

    Parameters
    ----------
    expected
        The classes of pixels in each batch, (samples, height, width).
    found
        The classes that a model gives, of the same shapes.
    classes
        How many classes the model has; None if its outputs do not tell.

    Raises
    ------
    ModelBuildError
        Fewer than two classes are expected, shapes differ, or classes are not whole numbers that a model can give.
    """
    counts = np.zeros((MOST_CLASSES, MOST_CLASSES), np.int64)
    most = MOST_CLASSES if classes is None else min(classes, MOST_CLASSES)
    for index, (wanted, given) in enumerate(zip(expected, found, strict=True)):
        if wanted.shape != given.shape or wanted.dtype.kind not in "iu":
            raise ModelBuildError(
                f"metric 'mean_iou': labels of evaluation batch {index} must be whole numbers {given.shape}, as the "
                f"model's pixels, got {wanted.dtype} {wanted.shape}"
            )
        counted = (wanted >= 0) & (wanted != NO_CLASS)
        pairs = np.stack([wanted[counted], given[counted]]).astype(np.int64)
        if not 0 <= pairs.min(initial=0) <= pairs.max(initial=0) < most:
            raise ModelBuildError(
                f"metric 'mean_iou': classes of evaluation batch {index} must be 0 to {most - 1}, got {pairs.min()} to "
                f"{pairs.max()}"
            )
        counts += np.bincount(pairs[0] * MOST_CLASSES + pairs[1], minlength=MOST_CLASSES**2).reshape(counts.shape)
    if np.count_nonzero(counts.sum(axis=1)) < 2:  # noqa: PLR2004
        raise ModelBuildError(
            "evaluation.data must have pixels of two or more classes for metric 'mean_iou', got fewer, so that a model "
            "that always gives one would pass; add other samples"
        )
    both = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - both
    return float(np.mean(both[union > 0] / union[union > 0]))
