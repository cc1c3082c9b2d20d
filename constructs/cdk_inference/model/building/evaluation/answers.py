"""Asks a deployed model its evaluation data, to calibrate a cascade. This needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import load_samples
from cdk_inference.model.building.evaluation.evaluate import predict
from cdk_inference.model.building.evaluation.metrics import confidences
from cdk_inference.model.files import weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.evaluation.data import Batch, Samples
    from cdk_inference.model.building.evaluation.metrics import Array
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe

DIGITS = 6
"""Decimal places of a confidence: the deployed functions compare no more with the threshold, either."""

_CLASSIFIED = 2  # axes of class scores: samples and classes
_FEWEST = 2  # classes


def answer(
    recipe: ModelRecipe,
    request: dict[str, Any],
    folder: Path,
    cache: Path,  # noqa: ARG001 - every mode is called alike
    work: Path,
    passes: Passes,
) -> None:
    """Write class, confidence, label and description of each sample to ``answers.json``."""
    with passes.timed("answers"):
        samples = load_samples(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
        batches = _one_by_one(samples.inputs) if request["singly"] else samples.inputs
        model = weights.whole(Path(request["model"]))
        outputs = predict(model, recipe, batches, "the deployed model")
        scores = _class_scores([batch[0] for batch in outputs], recipe)
        passes.check_files(folder, recipe, request["files"])
    answers = {
        "name": recipe.name,
        "version": weights.digest(Path(request["model"]).parent)[:12],
        "classes": scores.shape[1],
        "top": np.argmax(scores, axis=1).tolist(),
        # Each by itself, as the deployed functions do it: whether scores are probabilities must not depend on others.
        "confidences": [round(float(confidences(row[None])[0]), DIGITS) for row in scores],
        "labels": _labels(samples, scores.shape[1]),
        "descriptions": _descriptions(samples),
    }
    (work / "answers.json").write_text(json.dumps(answers), "utf-8")


def _one_by_one(batches: Sequence[Batch]) -> list[Batch]:
    return [
        {name: array[index : index + 1] for name, array in batch.items()}
        for batch in batches
        for index in range(len(next(iter(batch.values()))))
    ]


def _class_scores(arrays: Sequence[Array], recipe: ModelRecipe) -> Array:
    shapes = {array.shape[1:] for array in arrays}
    classes = next(iter(shapes))
    if len(shapes) > 1 or len(classes) != _CLASSIFIED - 1 or classes[0] < _FEWEST:
        raise ModelBuildError(
            f"a cascade needs the scores of two or more classes, but output '{recipe.outputs[0].name}' has shapes "
            f"{sorted({array.shape for array in arrays})}; put the class scores first among the outputs"
        )
    return np.concatenate(arrays)


def _labels(samples: Samples, classes: int) -> list[int] | None:
    """Return the labels if they are class numbers; those of other metrics say nothing about classes."""
    if not samples.labelled:
        return None
    try:
        labels = np.concatenate([np.asarray(batch) for batch in samples.labels])
    except ValueError:  # of different shapes
        return None
    numbers = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < classes
    return labels.tolist() if numbers else None


def _descriptions(samples: Samples) -> list[str] | None:
    texts = [text for batch in samples.descriptions if batch is not None for text in batch]
    return texts if len(texts) == sum(samples.sizes) else None
