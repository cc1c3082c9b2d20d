"""Turns the class of each pixel into a mask in the work bucket, and the share of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference_runtime.stages.builtin.labels import read_labels
from inference_runtime.stages.builtin.masks import mask_writer
from inference_runtime.stages.builtin.outputs import select_output
from inference_runtime.stages.builtin.picture import Picture
from inference_runtime.stages.builtin.png import palette_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

    Classes = npt.NDArray[np.uint8]

UNSEEN = 255
"""The class of pixels that the model did not see."""

_DIGITS = 6


def segmentation_postprocessor(
    output: str,
    axis: int | None,
    labels: Sequence[str] | None = None,
    labels_file: str | None = None,
    size: Literal["picture", "model"] = "picture",
    threshold: float | None = None,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a model that gives the class of each pixel.

    Parameters
    ----------
    output
        The model's output.
    axis
        The axis of the classes, without the batch. None if the output has none: it holds the best class of each pixel,
        or one score.
    labels
        Names of the classes in the model's order, at most 255.
    labels_file
        Instead of `labels`: a text file among the stage's sources, one name a line.
    size
        `picture` for a mask of the size of the picture, in which pixels that the model did not see are `UNSEEN`.
        `model` for one as the model gives it, with the borders that it saw.
    threshold
        The score above which a pixel has the second of two classes, if the output has one score for each.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `mask`, the address of a PNG whose pixels are classes, and its `width`
        and `height`. `areas` has `label`, `class_index` and `share` of each class that occurs, the largest first.
        Shares are those of the part of the picture that the model saw. It needs the `Picture` that preprocessing kept.

    Raises
    ------
    ValueError
        If an option makes no sense.
    StageError
        If there is no place for masks.
    """
    names = read_labels(labels, labels_file)
    if not names or len(names) > UNSEEN:
        raise ValueError(f"there are {len(names or ())} labels, expected 1 to {UNSEEN}")
    if size not in ("picture", "model"):
        raise ValueError(f'size is "{size}", expected "picture" or "model"')
    write = mask_writer()

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:
        classes = _classes(select_output(outputs, output), axis, len(names), threshold)
        picture = Picture.of(item.kept)
        down, across = (
            picture.places(count, axis=place) for place, count in ((1, len(classes)), (0, classes.shape[1]))
        )
        if size == "picture":
            width, height, rows = picture.width, picture.height, _enlarged(classes, down, across)
        else:
            height, width = classes.shape
            rows = ((row.tobytes(), 1) for row in classes)
        png = palette_png(width, height, rows, UNSEEN)
        return {
            "mask": write(png),
            "width": width,
            "height": height,
            "areas": _areas(classes, down, across, names),
        }

    return postprocess


def _classes(values: Array, axis: int | None, count: int, threshold: float | None) -> Classes:
    # Wrong options, not a wrong object: these raise what makes the runtime keep the message for after the fix.
    channels = count if threshold is None else 1
    if values.ndim != (2 if axis is None else 3) or (axis is not None and values.shape[axis] != channels):
        scores = f"{count} classes on axis {axis}, one for each label" if threshold is None else "one score a pixel"
        expected = "height and width" if axis is None else scores
        raise RuntimeError(f"the model's output has shape {list(values.shape)}, expected {expected}")
    if threshold is not None:
        return ((values if axis is None else values.take(0, axis=axis)) > threshold).astype(np.uint8)
    classes = values if axis is None else values.argmax(axis=axis)
    if classes.size and not 0 <= classes.min() <= classes.max() < count:
        raise RuntimeError(f"the model gives classes {classes.min()} to {classes.max()}, expected 0 to {count - 1}")
    return classes.astype(np.uint8)


def _enlarged(classes: Classes, down: Array, across: Array) -> Iterator[tuple[bytes, int]]:
    """Yield the rows of a mask that differ from the one above, and how often each comes."""
    blank = np.full(len(across), UNSEEN, np.uint8)
    seen = across >= 0
    starts = np.flatnonzero(np.diff(down, prepend=-2))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(down)], strict=True):
        row = blank.copy()
        if down[start] >= 0:
            row[seen] = classes[down[start], across[seen]]
        yield row.tobytes(), end - start


def _areas(classes: Classes, down: Array, across: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the classes by their share of the pixels of the picture that the model saw."""
    rows = np.bincount(down[down >= 0], minlength=classes.shape[0])
    columns = np.bincount(across[across >= 0], minlength=classes.shape[1])
    counts = np.bincount(classes.reshape(-1), np.outer(rows, columns).reshape(-1), len(names))
    shares = counts / max(counts.sum(), 1)
    order = [index for index in np.argsort(-shares, kind="stable").tolist() if shares[index] > 0]
    return [
        {"label": names[index], "class_index": index, "share": round(float(shares[index]), _DIGITS)} for index in order
    ]
