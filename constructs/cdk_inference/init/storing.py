"""How the outputs of a model become a prediction: chosen by the names, types and shapes of these."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.init.reading import elements, takes_pictures
from cdk_inference.init.rendering import literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.init.model import InspectedModel
    from cdk_inference.model.recipe.tensors import TensorSpec

LABELS = "labels.txt"

_VECTOR = re.compile(r"embed|pool|vector|feature", re.IGNORECASE)
_CLASSES = re.compile(r"logit|score|prob|class|label|^output", re.IGNORECASE)
_MOST_NUMBERS = 1000  # that a row stores one by one
_BOX = 4  # numbers of a box, before the scores of its classes
_LEAST_PLACES = 1000  # of a YOLO
_MOST_CLASSES = 1000
_MOST_MASK_CLASSES = 255


@dataclass(frozen=True)
class Storing:
    """The stage behind a model.

    Parameters
    ----------
    kind
        Words for what a row has.
    postprocess
        The expression in the app; empty for the library's default.
    evaluation
        The metric and its bounds in the recipe.
    labels
        The names of the classes, for a file of the project.
    templates
        More templates that the project gets, by path in the project.
    needs_picture
        Whether it asks what of a picture the model saw.
    """

    kind: str
    postprocess: str
    evaluation: str
    labels: tuple[str, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    needs_picture: bool = False


def choose_storing(model: InspectedModel) -> Storing:
    """Return how to store what a model gives."""
    evaluation = _evaluation(model)
    named = len(model.outputs) > 1
    vectors = [spec for spec in model.outputs if len(spec.shape) == 2 and spec.dtype.startswith("float")]  # noqa: PLR2004
    for spec in vectors:
        if labels := _labels(model, spec):
            output = f", output={literal(spec.name)}" if named else ""
            activation = ', activation="none"' if model.probabilities else ""
            return Storing(
                kind="the label with the highest score",
                postprocess=f'Postprocess.classification(labels="{LABELS}"{activation}{output})',
                evaluation=evaluation,
                labels=labels,
            )
    for spec in vectors:
        if _VECTOR.search(spec.name):
            output = f"output={literal(spec.name)}" if named else ""
            return Storing("the vector", f"Postprocess.embedding({output})", evaluation)
    if takes_pictures(model) and len(model.outputs) == 1 and (found := _places(model, model.outputs[0], evaluation)):
        return found
    if sum(elements(spec) for spec in model.outputs) <= _MOST_NUMBERS:
        return Storing("the outputs, as numbers", "", evaluation)
    return Storing(
        kind="a summary of the outputs",
        postprocess='Postprocess.function("postprocess.py:postprocess")',
        evaluation=evaluation,
        templates={"postprocess.py": "postprocess_summary.py.j2"},
    )


def _places(model: InspectedModel, spec: TensorSpec, evaluation: str) -> Storing | None:
    """Return how to store what is where in a picture: boxes of a YOLO, or a class for each pixel."""
    sizes = spec.shape[1:]
    if len(sizes) == 2 and all(isinstance(size, int) for size in sizes):  # noqa: PLR2004
        rows, places = sorted(int(size) for size in sizes)
        if places >= _LEAST_PLACES and 1 <= rows - _BOX <= _MOST_CLASSES:
            labels = _class_names(model, rows - _BOX)
            stage = f'Postprocess.detection(labels="{LABELS}")'
            return Storing("labelled boxes", stage, evaluation, labels, needs_picture=True)
    if len(sizes) == 3 and isinstance(sizes[0], int) and 2 <= sizes[0] <= _MOST_MASK_CLASSES:  # noqa: PLR2004
        labels = _class_names(model, sizes[0])
        stage = f'Postprocess.segmentation(labels="{LABELS}")'
        return Storing("a mask, and the share of each class", stage, evaluation, labels, needs_picture=True)
    return None


def _labels(model: InspectedModel, spec: TensorSpec) -> tuple[str, ...]:
    """Return a name for each class; empty if the output does not look like classes."""
    count = spec.shape[1]
    if isinstance(count, str) or count < 2 or model.distances:  # noqa: PLR2004
        return ()
    if model.labels:
        return model.labels if len(model.labels) == count else ()
    return _class_names(model, count) if _CLASSES.search(spec.name) or model.probabilities else ()


def _class_names(model: InspectedModel, count: int) -> tuple[str, ...]:
    """Return the names of the classes, or numbers where they are unknown."""
    return model.labels if len(model.labels) == count else tuple(f"class {index}" for index in range(count))


def _evaluation(model: InspectedModel) -> str:
    """Return a metric that needs no labels. The direction of a single number says nothing, so its size counts."""
    if all(elements(spec) == 1 for spec in model.outputs):
        return 'metric="mean_absolute_error", max_drop=0.05'
    return 'metric="cosine", max_drop=0.02'
