"""Turns a detector's outputs into labelled boxes in the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.stages.builtin.boxes import reader_of
from inference_runtime.stages.builtin.labels import read_labels
from inference_runtime.stages.builtin.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_DIGITS = 2  # of a pixel


def detection_postprocessor(
    head: Mapping[str, Any],
    labels: Sequence[str] | None = None,
    labels_file: str | None = None,
    min_score: float = 0.25,
    max_detections: int = 100,
    *,
    normalized: bool = False,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a detector.

    Parameters
    ----------
    head
        The form of the model's outputs, see `reader_of`.
    labels
        Names of the classes in the model's order. Without labels a class is named by its index.
    labels_file
        Instead of `labels`: a text file among the stage's sources, one name a line.
    min_score
        Boxes with a lower score are left out, above 0 and at most 1.
    max_detections
        How many boxes the prediction lists at most.
    normalized
        Whether the model's boxes are fractions of the sides of its input, not pixels of it.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `detections`, a list of `label`, `class_index`, `score` and `box`, best
        first, and `count`, how many there are. A box is (left, top, right, bottom) in pixels of the upright picture,
        within it. It needs the `Picture` that preprocessing kept.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    if not 0 < min_score <= 1:
        raise ValueError(f"min_score is {min_score}, expected above 0 and at most 1")
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}, expected at least 1")
    names = read_labels(labels, labels_file)
    read = reader_of(head)

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:
        picture = Picture.of(item.kept)

        def inside(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
            left, top, right, bottom = picture.place(corners, normalized=normalized).T
            return np.asarray((right > left) & (bottom > top))

        found = read(outputs, min_score, max_detections, inside)
        corners = picture.place(found.corners, normalized=normalized)
        detections = [
            {
                "label": _label(names, index),
                "class_index": index,
                "score": score,
                "box": [round(edge, _DIGITS) for edge in box],
            }
            for index, score, box in zip(found.classes.tolist(), found.scores.tolist(), corners.tolist(), strict=True)
        ]
        return {"detections": detections, "count": len(detections)}

    return postprocess


def _label(names: list[str] | None, index: int) -> str:
    if names is None:
        return str(index)
    if not 0 <= index < len(names):  # wrong options, not a wrong object
        raise RuntimeError(f"the model found class {index}, expected 0 to {len(names) - 1}, one for each label")
    return names[index]
