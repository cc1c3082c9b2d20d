"""Turns a classifier's output into labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference_runtime.stages.builtin.labels import read_labels
from inference_runtime.stages.builtin.outputs import select_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_TOLERANCE = 1e-3  # rounding of probabilities that a model computes in half precision
_PAIR = 2  # the labels that one value tells apart


def classification_postprocessor(
    labels: Sequence[str] | None = None,
    labels_file: str | None = None,
    top: int = 5,
    activation: Literal["softmax", "sigmoid", "none"] = "softmax",
    output: str | None = None,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a classifier.

    Parameters
    ----------
    labels
        Names of the classes in the model's order. Without labels a class is named by its index.
    labels_file
        Instead of `labels`: a text file among the stage's sources, one name a line.
    top
        How many classes the prediction lists.
    activation
        `softmax` or `sigmoid` if the model returns logits, `none` if it returns scores from 0 to 1. With the last two,
        a single value for two labels is that of the second label.
    output
        The model's output that holds the classes; needed if it has several.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `label`, `class_index` and `score` of the best class, and `top`, a list
        of such, best first. Scores are in [0, 1]. Among equal scores, the lower index comes first.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    names = read_labels(labels, labels_file)
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    if activation not in ("softmax", "sigmoid", "none"):
        raise ValueError(f'activation is "{activation}", expected "softmax", "sigmoid" or "none"')
    pair = names is not None and len(names) == _PAIR and activation != "softmax"

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        values = select_output(outputs, output).astype(np.float64)
        if pair and values.size == 1:
            value = values.item()
            values = np.array([-value if activation == "sigmoid" else 1 - value, value])
        # Wrong options, not a wrong object: these raise what makes the runtime keep the message for after the fix.
        if values.ndim != 1 or (names is not None and len(names) != len(values)):
            classes = "one axis" if names is None else f"{len(names)} classes, one for each label"
            raise RuntimeError(f"the model's output has shape {list(values.shape)}, expected {classes}")
        scores = _ACTIVATIONS[activation](values)
        if scores.min() < -_TOLERANCE or scores.max() > 1 + _TOLERANCE:
            raise RuntimeError('scores are not in [0, 1]: the model returns logits, use activation="softmax"')
        scores = scores.clip(0, 1)
        ranking = [
            {"label": str(index) if names is None else names[index], "class_index": int(index), "score": float(score)}
            for index in np.argsort(-values, kind="stable")[:top]  # by logits: rounding makes scores equal
            for score in (scores[index],)
        ]
        return {**ranking[0], "top": ranking}

    return postprocess


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exponentials: npt.NDArray[np.float64] = np.exp(logits - logits.max())
    exponentials /= exponentials.sum()
    return exponentials


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits))  # without overflow
    return scores


_ACTIVATIONS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "none": lambda scores: scores,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}
