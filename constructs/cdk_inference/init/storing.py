"""How the outputs of a model become a prediction: chosen by the names, types and shapes of these."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdk_inference.init.reading import elements
from cdk_inference.init.rendering import literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.init.model import InspectedModel
    from cdk_inference.model.recipe.tensors import TensorSpec

LABELS = "labels.txt"

_VECTOR = re.compile(r"embed|pool|vector|feature", re.IGNORECASE)
_CLASSES = re.compile(r"logit|score|prob|class|label|^output", re.IGNORECASE)
_MOST_NUMBERS = 1000  # that a row stores one by one


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
    """

    kind: str
    postprocess: str
    evaluation: str
    labels: tuple[str, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)


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
    if sum(elements(spec) for spec in model.outputs) <= _MOST_NUMBERS:
        return Storing("the outputs, as numbers", "", evaluation)
    return Storing(
        kind="a summary of the outputs",
        postprocess='Postprocess.function("postprocess.py:postprocess")',
        evaluation=evaluation,
        templates={"postprocess.py": "postprocess_summary.py.j2"},
    )


def _labels(model: InspectedModel, spec: TensorSpec) -> tuple[str, ...]:
    """Return a name for each class; empty if the output does not look like classes."""
    count = spec.shape[1]
    if isinstance(count, str) or count < 2:  # noqa: PLR2004
        return ()
    if model.labels:
        return model.labels if len(model.labels) == count else ()
    if _CLASSES.search(spec.name) or model.probabilities:
        return tuple(f"class {index}" for index in range(count))
    return ()


def _evaluation(model: InspectedModel) -> str:
    """Return a metric that needs no labels. The direction of a single number says nothing, so its size counts."""
    if all(elements(spec) == 1 for spec in model.outputs):
        return 'metric="mean_absolute_error", max_drop=0.05'
    return 'metric="cosine", max_drop=0.02'
