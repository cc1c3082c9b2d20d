"""The float and the deployed answers, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from cdk_inference.model.card.entry import Array, Entry

MOST_CLASSES = 20  # more rows than this are not read any more
WIDEST_REGRESSION = 8  # outputs with more values per sample are compared as vectors

Task = Literal["classification", "similarity", "regression"]


@dataclass(frozen=True)
class Confusion:
    """How often answer (row) met answer (column).

    Parameters
    ----------
    classes
        Indices of the classes shown, those with disagreements first chosen, in the order of the outputs.
    counts
        (n, n) int64; with `pooled` > 0 the last row and column stand for all other classes.
    pooled
        Number of other classes that occur.
    pooled_differences
        Samples whose two answers are different classes, both among the pooled ones.
    against
        ``"label"`` if the rows are labels, ``"float32"`` if they are the float model's answers.
    differing
        Pairs (row class, deployed class, count) that differ, most frequent first.
    samples
        Number of samples counted.
    """

    classes: list[int]
    counts: Array
    pooled: int
    pooled_differences: int
    against: Literal["label", "float32"]
    differing: list[tuple[int, int, int]]
    samples: int


def task(entry: Entry) -> Task | None:
    """Return which comparison fits the model; None without outputs to compare."""
    if not entry.float_outputs or not first_output(entry.float_outputs).size:
        return None
    metric = entry.report.gate.metric
    output = first_output(entry.float_outputs)
    width = int(np.prod(output.shape[1:]))
    names = entry.report.class_names
    classes = output.ndim == 2 and width > 1  # noqa: PLR2004
    if classes and (metric.startswith("top") or (names is not None and len(names) == width and ".py:" in metric)):
        return "classification"
    if metric == "mean_absolute_error" or (metric != "cosine" and width <= WIDEST_REGRESSION):
        return "regression"
    return "similarity"


def first_output(outputs: dict[str, Array]) -> Array:
    """Return the output that top-k metrics look at: scikit-learn's models give the label first, as a whole number."""
    arrays = list(outputs.values())
    return next((array for array in arrays if array.dtype.kind == "f"), arrays[0])


def rows(outputs: dict[str, Array]) -> Array:
    """Return all outputs of each sample in one row, (samples, values) float64."""
    return np.concatenate([a.reshape(len(a), -1).astype(np.float64) for a in outputs.values()], axis=1)


def probabilities(scores: Array) -> Array:
    """Return class probabilities, (samples, classes) float64, from logits or from what sums up to one already."""
    scores = scores.astype(np.float64)
    if np.all(scores >= 0) and np.allclose(scores.sum(axis=1), 1.0, atol=0.02):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def counted(entry: Entry) -> Array:
    """Return which samples the gate counts, (samples,) bool."""
    output = first_output(entry.float_outputs)
    evaluation = entry.report.recipe.get("evaluation")
    least = evaluation.get("min_confidence") if isinstance(evaluation, dict) else None
    if isinstance(least, int | float) and output.ndim == 2 and output.shape[1] > 1:  # noqa: PLR2004
        return np.asarray(probabilities(output).max(axis=1) >= least)
    return np.ones(len(output), bool)


def class_labels(entry: Entry) -> Array | None:
    """Return the labels if they are class indices, (samples,) int64."""
    labels = entry.labels
    if labels is None or labels.dtype.kind not in "iu" or labels.size != len(labels):
        return None
    labels = labels.reshape(-1).astype(np.int64)
    width = first_output(entry.float_outputs).shape[-1]
    return labels if np.all((labels >= 0) & (labels < width)) else None


def confusion(entry: Entry) -> Confusion | None:
    """Count the answers over the classes that occur; None if no sample counts."""
    keep = counted(entry)
    labels = class_labels(entry)
    expected = np.argmax(first_output(entry.float_outputs), axis=1) if labels is None else labels
    deployed = np.argmax(first_output(entry.deployed_outputs), axis=1)
    expected, deployed = expected[keep], deployed[keep]
    if not len(expected):
        return None
    occurring = np.unique(np.concatenate([expected, deployed]))
    differ = expected != deployed
    errors = {c: int(np.sum(differ & ((expected == c) | (deployed == c)))) for c in occurring.tolist()}
    frequency = {c: int(np.sum(expected == c)) for c in errors}
    # Classes that never disagree say the least.
    interesting = sorted(errors, key=lambda c: (-errors[c], -frequency[c], c))
    shown = sorted(interesting[: MOST_CLASSES if len(interesting) <= MOST_CLASSES else MOST_CLASSES - 1])
    place = {c: i for i, c in enumerate(shown)}
    others = len(shown)
    size = len(shown) + (len(occurring) > len(shown))
    counts = np.zeros((size, size), np.int64)
    pooled_differences = 0
    pairs: dict[tuple[int, int], int] = {}
    for a, b in zip(expected.tolist(), deployed.tolist(), strict=True):
        counts[place.get(a, others), place.get(b, others)] += 1
        if a != b:
            pairs[a, b] = pairs.get((a, b), 0) + 1
            pooled_differences += a not in place and b not in place
    return Confusion(
        classes=shown,
        counts=counts,
        pooled=len(occurring) - len(shown),
        pooled_differences=pooled_differences,
        against="float32" if labels is None else "label",
        differing=[(a, b, n) for (a, b), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))],
        samples=len(expected),
    )


def cosines(entry: Entry) -> Array:
    """Return the cosine similarity of float and deployed outputs for each sample, (samples,) float64."""
    left, right = rows(entry.float_outputs), rows(entry.deployed_outputs)
    return _cosine(left, right)


def nearest(outputs: dict[str, Array]) -> list[tuple[int, float]]:
    """Return for each sample which other one is most similar, and the cosine."""
    vectors = rows(outputs)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms == 0, 1.0, norms)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    best = np.argmax(similarity, axis=1)
    return [(int(b), float(similarity[i, b])) for i, b in enumerate(best)]


def regression(entry: Entry) -> tuple[Array, Array, Literal["label", "float32"]]:
    """Return expected and deployed values, each (samples, values) float64, and what the expected ones are."""
    expected = rows(entry.float_outputs)
    deployed = rows(entry.deployed_outputs)
    labels = entry.labels
    if labels is not None and labels.dtype.kind in "biuf" and labels.size == expected.size:
        return labels.reshape(expected.shape).astype(np.float64), deployed, "label"
    return expected, deployed, "float32"


def _cosine(left: Array, right: Array) -> np.ndarray[Any, Any]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = (norms == 0) & np.all(left == right, axis=1)
    return np.where(both_zero, 1.0, np.sum(left * right, axis=1) / np.where(norms == 0, 1.0, norms))
