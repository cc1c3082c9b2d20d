"""The boxes that a detector finds in the evaluation samples: drawn into the pictures, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from cdk_inference.model.card.entry import Array, Entry

COLUMNS = 7
"""Sample, left, top, right and bottom edge, score and class."""

_SCORE, _CLASS = 5, 6
_DRAWN: dict[Literal["float", "deployed"], tuple[str, int]] = {"deployed": ("#00b3a6", 3), "float": ("#ffffff", 1)}
"""Colour and width in pixels. Where both find the same, float32's box frames that of the deployed model."""


def found(entry: Entry, model: Literal["float", "deployed"], sample: int) -> Array:
    """Return the boxes that a model finds in a sample, (boxes, 7), best first."""
    boxes = entry.boxes[model]
    return np.asarray(boxes[boxes[:, 0] == sample])


def drawn(entry: Entry, sample: int, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture with the boxes of both models.

    Parameters
    ----------
    entry
        The build.
    sample
        The place of the sample among those that are shown.
    image
        The picture as it is shown.
    size
        Width and height of what the model sees.
    """
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    evaluation = entry.report.recipe.get("evaluation")
    head = evaluation.get("head") if isinstance(evaluation, dict) else None
    fractions = isinstance(head, dict) and (head.get("kind") == "detr" or head.get("normalized") is True)
    across, down = (1, 1) if fractions else size
    for model, (colour, width) in _DRAWN.items():
        edges = found(entry, model, sample)[:, 1:_SCORE] / [across, down, across, down]
        for left, top, right, bottom in edges.clip(0, 1).tolist():
            if left < right and top < bottom:
                corners = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
                draw.rectangle(corners, outline=colour, width=width)
    return picture


def differ(entry: Entry, sample: int) -> bool:
    """Tell whether the models find other classes in a sample, or another number of things."""
    both = [sorted(found(entry, model, sample)[:, _CLASS].tolist()) for model in _DRAWN]
    return both[0] != both[1]


def scored(entry: Entry, model: Literal["float", "deployed"], sample: int) -> list[tuple[int, float]]:
    """Return class and score of what a model finds in a sample, best first."""
    return [(int(box[_CLASS]), float(box[_SCORE])) for box in found(entry, model, sample)]
