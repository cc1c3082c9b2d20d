"""Measures how faithful explanations are, with the code that the deployed functions run. This needs no torch."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import Samples, load_samples
from cdk_inference.model.building.evaluation.opening import open_model
from cdk_inference.model.files import weights
from cdk_inference.model.recipe.structure import unstructure
from cdk_inference.model.records.faithfulness import Faithfulness

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.passes import Passes
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from inference_runtime.explanations.explainer import Explainer
    from inference_runtime.tensors.tensor import Tensor

    Inputs = Mapping[str, Tensor]
    Infer = Callable[[Inputs], Mapping[str, Tensor]]

SAMPLES = 24
"""Most samples that are explained, evenly spread over the evaluation data."""

FEWEST_SAMPLES = 4
"""Fewer say nothing about others."""

STEPS = 8
"""Most steps in which the parts of a sample are hidden, from none to all."""

ORDERS = 2
"""Random orders of the parts that each sample is compared with."""

DIGITS = 4
"""Digits that count of a figure: CPUs differ in the last bits."""

_MOST_IN_A_RUN = 16
_CONFIDENCE = 1.6449  # the quantile of the normal distribution at 95 %


def measure(
    recipe: ModelRecipe, request: dict[str, Any], folder: Path, cache: Path, work: Path, passes: Passes
) -> None:
    """Write the `Faithfulness` of a deployed model's explanations to ``faithfulness.json``."""
    del cache
    sys.path.append(request["runtime"])  # the code of the functions
    from inference_runtime.explanations.explainer import Explainer  # noqa: PLC0415 - found only now

    settings = request["settings"] | {"seconds": math.inf}
    with passes.timed("explanations"):
        samples = load_samples(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
        fill = _fill(recipe, folder, samples, request)
        if fill:
            settings["options"]["fill"] = fill
        infer = _model(Path(request["model"]), recipe, singly=request["singly"])
        explainer = Explainer(infer, settings)
        share = _share(explainer, infer, samples, settings["when"])
        found = _faithfulness(explainer, infer, samples, absolute=settings["target"] == "number")
        passes.check_files(folder, recipe, request["files"])
    figures = Faithfulness(
        method=settings["method"], baseline=settings["baseline"], fill=tuple(fill), share=share, **found
    )
    (work / "faithfulness.json").write_text(json.dumps(unstructure(figures)), "utf-8")


def _fill(recipe: ModelRecipe, folder: Path, samples: Samples, request: Mapping[str, Any]) -> list[float | str]:
    """Return what hides parts: means, or the most frequent values, or zeros; nothing for tokens."""
    parts, options, zero = request["settings"]["parts"], request["settings"]["options"], request["zero"]
    if parts == "tokens":
        return []
    data = samples.inputs
    if recipe.calibration is not None and not zero:
        data = load_samples(folder, recipe.calibration, "calibration", recipe.inputs).inputs
    if parts == "cells":
        arrays = [batch[options["input"]] for batch in data]
        return [0.0 if zero else _held(mean, arrays[0].dtype) for mean in _means(arrays, request["channel_axis"])]
    found: list[float | str] = []
    for feature, (name, place) in enumerate(options["places"]):
        values = np.concatenate([batch[name].reshape(len(batch[name]), -1)[:, place] for batch in data])
        found.append(_value(values, common=feature in request["common"], zero=zero))
    return found


def _value(values: np.ndarray[Any, Any], *, common: bool, zero: bool) -> float | str:
    """Return what hides a feature that has these values in the data; NaN, which stands for none, does not count."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    if zero or not known.size:
        return "" if values.dtype.kind in "US" else 0.0
    if common:
        distinct, counts = np.unique(known, return_counts=True)
        most = distinct[np.argmax(counts)]
        return str(most) if values.dtype.kind in "US" else float(most)
    return _held(float(known.astype(np.float64).mean()), values.dtype)


def _means(arrays: Sequence[np.ndarray[Any, Any]], axis: int | None) -> list[float]:
    """Return the mean of each channel."""
    total, count = None, 0
    for array in arrays:
        others = tuple(each for each in range(array.ndim) if each != axis)
        part = np.atleast_1d(array.astype(np.float64).sum(axis=others))
        total = part if total is None else total + part
        count += array.size // part.size
    return [] if total is None else [float(value) for value in total / count]


def _held(value: float, kind: np.dtype[Any]) -> float:
    """Return a mean as a type holds it; of floats, as many digits as every CPU agrees on."""
    return float(f"{value:.{DIGITS}g}") if kind.kind == "f" else round(value)


def _model(file: Path, recipe: ModelRecipe, *, singly: bool) -> Infer:
    """Return what runs the model as the deployed functions do, in batches that it takes."""
    from inference_runtime.engine.batches import Batches  # noqa: PLC0415 - see `measure`
    from inference_runtime.tensors.tensor import Tensor as RuntimeTensor  # noqa: PLC0415
    from inference_runtime.tensors.tensor import arrays_of  # noqa: PLC0415

    session = open_model(weights.whole(file))
    names = [spec.name for spec in recipe.outputs]

    def run(chunk: Inputs, count: int) -> list[Tensor]:  # noqa: ARG001 - as Batches calls it
        try:
            return [RuntimeTensor.of(array) for array in session.run(names, arrays_of(chunk))]
        except Exception as error:  # onnxruntime has no base class for errors of operators
            reason = str(error).strip().splitlines()[0][:300]
            raise ModelBuildError(f"the deployed model cannot run on an item with hidden parts: {reason}") from error

    fixed = recipe.inputs[0].shape[0]
    most = 1 if singly else _MOST_IN_A_RUN
    batches = Batches(run, names, max_batch_size=most, fixed_batch_size=fixed if isinstance(fixed, int) else None)
    return batches.run


def _share(explainer: Explainer, infer: Infer, samples: Samples, when: str | float) -> float | None:
    """Return the share of the evaluation samples that would be explained; None if that is on request."""
    if isinstance(when, str):
        return 1.0 if when == "always" else None
    found = 0
    for batch in samples.inputs:
        inputs = _tensors(batch)
        count = len(next(iter(inputs.values())))
        found += len(explainer.wanted(range(count), infer(inputs), None))
    return round(found / sum(samples.sizes), DIGITS)


def _faithfulness(explainer: Explainer, infer: Infer, samples: Samples, *, absolute: bool) -> dict[str, Any]:
    """Return the areas of samples, and how sure it is that insertion is above deletion.

    Parameters
    ----------
    absolute
        Whether weights of both signs count, as of numbers: then the curves are of the distance from the answer.
    """
    areas: list[tuple[float, float, float]] = []
    runs: list[int] = []
    spread = _spread(explainer, infer, samples) if absolute else None
    for number, inputs in enumerate(_chosen(samples)):
        output = infer(inputs)[explainer.output]
        target, parts = explainer.target_of(output), explainer.parts_of(inputs)
        if parts.count < 2:  # noqa: PLR2004 - one part has no order
            continue
        scoring = explainer.runs(parts, target)
        whole, found, _ = explainer.weights(parts, scoring)
        runs.append(scoring.done)
        order = sorted(range(parts.count), key=lambda part: -(abs(found[part]) if absolute else found[part]))
        random = np.random.default_rng(number)
        orders = [order, order[::-1], *(random.permutation(parts.count).tolist() for _ in range(ORDERS))]
        curves = _curves(explainer.runs(parts, target).all, orders, parts.count)
        if spread is not None:
            curves = [[1 - abs(score - whole) / spread for score in curve] for curve in curves]
        deletion, backwards, *others = (_area(curve) for curve in curves)
        # Showing parts in an order passes the same coalitions as hiding them in the opposite one.
        areas.append((deletion, backwards, math.fsum(others) / len(others)))
    if len(areas) < FEWEST_SAMPLES:
        raise ModelBuildError(
            f"evaluation.data must have {FEWEST_SAMPLES} samples of several parts or more for explain, got {len(areas)}"
        )
    deletion, insertion, chance = (float(np.mean([each[place] for each in areas])) for place in range(3))
    return {
        "samples": len(areas),
        "deletion": _rounded(deletion),
        "insertion": _rounded(insertion),
        "random": _rounded(chance),
        "bound": _rounded(_bound([shown - hidden for hidden, shown, _ in areas])),
        "runs": _rounded(math.fsum(runs) / len(runs)),
    }


def _curves(
    score: Callable[[Sequence[int]], list[float]], orders: Sequence[Sequence[int]], count: int
) -> list[list[float]]:
    """Return what is explained while parts are hidden in each order, from none to all."""
    steps = min(count, STEPS)
    ends = [step * count // steps for step in range(steps + 1)]
    coalitions = [sum(1 << part for part in order[:end]) for order in orders for end in ends]
    scores = score(coalitions)
    return [scores[first : first + len(ends)] for first in range(0, len(scores), len(ends))]


def _area(curve: Sequence[float]) -> float:
    return (math.fsum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def _bound(gaps: Sequence[float]) -> float:
    """Return what the mean is at least with 95 % confidence: Student's t, by the expansion of Cornish and Fisher."""
    free = len(gaps) - 1
    quantile = _CONFIDENCE + (_CONFIDENCE**3 + _CONFIDENCE) / (4 * free)
    return float(np.mean(gaps) - quantile * np.std(gaps, ddof=1) / math.sqrt(len(gaps)))


def _spread(explainer: Explainer, infer: Infer, samples: Samples) -> float:
    answers = [value for batch in samples.inputs for value in infer(_tensors(batch))[explainer.output].values()]
    return float(np.std(answers)) or 1.0


def _chosen(samples: Samples) -> list[Inputs]:
    """Return samples that are evenly spread over the data, each as a batch of one."""
    total = sum(samples.sizes)
    wanted = sorted({round(place) for place in np.linspace(0, total - 1, min(SAMPLES, total))})
    found: list[Inputs] = []
    before = 0
    for batch, size in zip(samples.inputs, samples.sizes, strict=True):
        found += [
            _tensors({name: array[place - before : place - before + 1] for name, array in batch.items()})
            for place in wanted
            if before <= place < before + size
        ]
        before += size
    return found


def _tensors(batch: Batch) -> dict[str, Tensor]:
    from inference_runtime.tensors.tensor import tensors_of  # noqa: PLC0415 - see `measure`

    return tensors_of(batch)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
