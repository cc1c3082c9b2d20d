"""Names what a vector is closest to: labels without a classifier, from one vector for each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.labels import read_labels
from inference_runtime.stages.builtin.outputs import select_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


def nearest_postprocessor(
    prototypes_file: str,
    labels: Sequence[str] | None = None,
    labels_file: str | None = None,
    top: int = 5,
    scale: float | None = None,
    output: str | None = None,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a model that makes a vector of each object.

    Parameters
    ----------
    prototypes_file
        An `npy` file among the stage's sources, (labels, numbers): a vector for each label.
    labels
        Their names. Without names a vector is named by its place.
    labels_file
        Instead of `labels`: a text file among the stage's sources, one name a line.
    top
        How many labels the prediction lists.
    scale
        Makes scores of the cosine similarities: their softmax, after they are multiplied with this. Without it, a score
        is the similarity itself.
    output
        The model's output that holds the vector; needed if it has several.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `label`, `class_index`, `score` and `similarity` of the closest vector,
        and `top`, a list of such, the closest first. A vector of zeros has no direction: the object is rejected.

    Raises
    ------
    ValueError
        If an option makes no sense, or the file has other vectors than there are names.
    """
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    names = read_labels(labels, labels_file)
    path = Path(os.environ.get("LAMBDA_TASK_ROOT", ""), prototypes_file)
    vectors = np.load(path, allow_pickle=False).astype(np.float64)
    if vectors.ndim != 2 or (names is not None and len(names) != len(vectors)):  # noqa: PLR2004
        raise ValueError(f"prototypes have shape {list(vectors.shape)}, expected a vector for each label")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(vectors).all() and lengths.all()):
        raise ValueError("prototypes have values that are not finite, or a vector of zeros")
    directions = vectors / lengths

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        vector = select_output(outputs, output).astype(np.float64)
        if vector.shape != directions.shape[1:]:  # wrong options, not a wrong object
            raise RuntimeError(f"the model's output has shape {list(vector.shape)}, expected {directions.shape[1:]}")
        length = float(np.linalg.norm(vector))
        if length == 0:
            raise RejectItem("the embedding is all zeros, which has no direction")
        similarities = (directions @ (vector / length)).clip(-1, 1)
        scores = similarities
        if scale is not None:
            powers = np.exp(scale * (similarities - similarities.max()))
            scores = powers / powers.sum()
        ranking = [
            {
                "label": str(index) if names is None else names[index],
                "class_index": index,
                "score": float(scores[index]),
                "similarity": float(similarities[index]),
            }
            for index in np.argsort(-similarities, kind="stable")[:top].tolist()
        ]
        return {**ranking[0], "top": ranking}

    return postprocess
