"""Counts what the evaluation data and the answers to them are like, so that production can be compared with them.

The functions compute the same numbers of each object: inference_runtime/monitoring/observations.py.
"""

from __future__ import annotations

import json
from hashlib import shake_256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.model.building.evaluation.data import load_samples
from cdk_inference.model.building.evaluation.evaluate import predict
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.structure import unstructure
from cdk_inference.model.recipe.tensors import STRING
from cdk_inference.model.records.manifest import Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cdk_inference.model.building.evaluation.data import Samples
    from cdk_inference.model.building.evaluation.metrics import Array, Outputs
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from cdk_inference.model.recipe.tensors import TensorSpec

MOST_BINS = 10
"""Bins of a number. Half a dozen tell most shifts, and each takes objects that the others miss."""

MOST_CLASSES = 20
"""With more classes, neighbours share a bin of the labels."""

MOST_FEATURES = 16
"""Elements of a vector that are observed one by one."""

PROJECTIONS = 4
"""Directions from which a longer vector is observed."""

_MOST_ELEMENTS = 4096  # of a vector with projections
_SAMPLES_PER_BIN = 10
_PLACING = 4  # every fourth sample places the edges
_VECTOR = 2  # axes, with that of the batch
_SAME = 1e-4  # of the largest value: less than that between values is rounding


def baseline(recipe: ModelRecipe, samples: Samples, outputs: Outputs) -> tuple[Observation, ...]:
    """Return the counts of every number that is observed, of inputs and of the deployed model's outputs.

    The edges of bins are quantiles of a quarter of the samples, and the others are counted. If the same samples did
    both, their counts would vary less than those of a window do, and windows without drift would look drifted.
    """
    found = []
    tensors: list[tuple[str, TensorSpec, Sequence[Array]]] = [
        *(("output", spec, [batch[i] for batch in outputs]) for i, spec in enumerate(recipe.outputs)),
        *(("input", spec, [batch[spec.name] for batch in samples.inputs]) for spec in recipe.inputs),
    ]
    masked = any(spec.name == "attention_mask" for spec in recipe.inputs)
    for source, spec, batches in tensors:
        for kind in _output_kinds(spec) if source == "output" else _input_kinds(spec, masked=masked):
            values = np.concatenate([observe(kind, batch) for batch in batches])
            classes = spec.shape[-1] if kind == "label" else None
            edges, counts = _counted(values, classes if isinstance(classes, int) else None)
            if edges:
                found.append(Observation(source, spec.name, kind, edges, counts))  # type: ignore[arg-type]
    return tuple(found)


def count(
    recipe: ModelRecipe,
    request: dict[str, Any],
    folder: Path,
    cache: Path,  # noqa: ARG001 - every mode is called alike
    work: Path,
    passes: Passes,
) -> None:
    """Write the baseline of a deployed model to ``baseline.json``, for a lock that has none. This needs no torch."""
    with passes.timed("baseline"):
        samples = load_samples(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
        model = weights.whole(Path(request["model"]))
        outputs = predict(model, recipe, samples.inputs, "the deployed model")
        passes.check_files(folder, recipe, request["files"])
    found = [unstructure(one) for one in baseline(recipe, samples, outputs)]
    (work / "baseline.json").write_text(json.dumps(found), "utf-8")


def _output_kinds(spec: TensorSpec) -> Iterator[str]:
    """Yield the numbers of an output: of classes and of a vector, since only the pipeline knows which it is."""
    sizes = spec.shape[1:]
    if not spec.dtype.startswith("float"):
        if len(sizes) == 0 and spec.dtype != "bool":
            yield "feature 0"
        return
    if len(sizes) == 1 and isinstance(sizes[0], int):
        if sizes[0] >= 2:  # noqa: PLR2004 - classes
            yield from ("label", "confidence")
        if sizes[0] > 2:  # noqa: PLR2004 - otherwise they say the same as the confidence
            yield from ("margin", "entropy")
        yield from _vector_kinds(sizes[0])
    elif not sizes:
        yield "feature 0"
    else:
        yield from ("mean", "contrast")


def _vector_kinds(size: int) -> Iterator[str]:
    if size <= MOST_FEATURES:
        yield from (f"feature {place}" for place in range(size))
        return
    yield "length"
    if size <= _MOST_ELEMENTS:
        yield from (f"projection {number}" for number in range(1, PROJECTIONS + 1))


def _input_kinds(spec: TensorSpec, *, masked: bool) -> Iterator[str]:
    sizes = spec.shape[1:]
    if spec.dtype == STRING:
        return
    if spec.name == "attention_mask":
        yield "tokens"
    elif spec.dtype == "bool" or (masked and spec.dtype.startswith("int")):
        return
    elif any(isinstance(size, str) for size in sizes) and spec.dtype.startswith("int"):
        yield "size"
    elif len(sizes) >= 2:  # noqa: PLR2004 - an image, or another field of values
        yield from ("brightness", "contrast", "sharpness")
    elif not sizes or (isinstance(sizes[0], int) and sizes[0] <= MOST_FEATURES):
        yield from (f"feature {place}" for place in range(sizes[0] if sizes else 1))  # type: ignore[arg-type]
    else:
        yield from ("mean", "contrast")


def observe(kind: str, batch: Array) -> Array:
    """Return a number of each sample of a batch."""
    name, _, place = kind.partition(" ")
    values = batch.astype(np.float64).reshape(len(batch), -1)
    if name == "feature":
        return np.asarray(values[:, int(place)])
    if name == "projection":
        return np.asarray(values @ _signs(int(place), values.shape[1]))
    if name == "sharpness":
        return _sharpness(batch.astype(np.float64))
    return np.asarray(_KINDS[name](values), np.float64)


def _signs(number: int, count: int) -> Array:
    bits = np.frombuffer(shake_256(bytes([number])).digest((count + 7) // 8), np.uint8)
    return np.unpackbits(bits, count=count) * 2.0 - 1


def _sharpness(images: Array) -> Array:
    rows, columns = np.argsort(images.shape[1:], kind="stable")[-2:] + 1
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (rows, columns)]
    return np.asarray(sum(each.mean(axis=1) if each.size else np.zeros(len(images)) for each in steps))


def _probabilities(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    summed = (scores.min(axis=1) >= 0) & (np.abs(scores.sum(axis=1) - 1) <= 1e-3 + 1e-5)
    return np.where(summed[:, None], scores, softmax)


def _margin(scores: Array) -> Array:
    best = np.sort(_probabilities(scores), axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def _entropy(scores: Array) -> Array:
    shares = _probabilities(scores)
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1) / np.log(shares.shape[1]))


_KINDS: dict[str, Callable[[Array], Array]] = {
    "label": lambda values: np.argmax(values, axis=1),
    "confidence": lambda values: _probabilities(values).max(axis=1),
    "margin": _margin,
    "entropy": _entropy,
    "mean": lambda values: values.mean(axis=1),
    "length": lambda values: np.linalg.norm(values, axis=1),
    "brightness": lambda values: values.mean(axis=1),
    "contrast": lambda values: values.std(axis=1),
    "tokens": lambda values: values.sum(axis=1),
    "size": lambda values: np.full(len(values), values.shape[1]),
}


def _counted(values: Array, classes: int | None) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the edges of bins, none if all values are alike, and how many samples are in each bin."""
    if classes is not None and classes <= MOST_CLASSES:
        edges, counted = [place + 0.5 for place in range(classes - 1)], values
    else:
        edges = _edges(values[::_PLACING])
        counted = np.delete(values, np.s_[::_PLACING])
    counts = np.bincount(np.searchsorted(edges, counted, side="right"), minlength=len(edges) + 1)
    return tuple(edges), tuple(counts.tolist())


def _edges(values: Array) -> list[float]:
    values = values[~np.isnan(values)]  # missing ones are in the last bin
    if not values.size:
        return []
    distinct = np.unique(values)
    spread = distinct[-1] - distinct[0]
    if spread <= _SAME * np.abs(distinct).max():
        return []
    bins = min(MOST_BINS, max(2, (_PLACING - 1) * len(values) // _SAMPLES_PER_BIN))
    if len(distinct) <= bins:
        places = (distinct[1:] + distinct[:-1]) / 2
    else:
        places = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    # To a thousandth of the spread: CPUs differ in the last bits.
    digits = int(3 - np.ceil(np.log10(spread)))
    return sorted({float(np.round(place, digits)) for place in places})
