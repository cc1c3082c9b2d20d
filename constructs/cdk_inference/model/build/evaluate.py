"""Measures a model against the float one, and decides whether it may ship."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.build.data import check_array
from cdk_inference.model.build.session import open_session
from cdk_inference.model.manifest import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.build.data import Batch
    from cdk_inference.model.recipe import Evaluation, ModelRecipe, TensorSpec

Arrays = list[np.ndarray[Any, Any]]

EXPORT_TOLERANCE = 1e-3  # of the largest output: float rounding of a deep network stays far below
LATENCY_RUNS = 15


def predict(model: bytes, recipe: ModelRecipe, batches: Sequence[Batch], what: str) -> Arrays:
    """Return the outputs over all batches, one array each, checked against the declared outputs."""
    session = open_session(model)
    names = [s.name for s in recipe.outputs]
    collected: list[Arrays] = []
    for index, batch in enumerate(batches):
        arrays: Arrays = session.run(names, batch)
        check_outputs(arrays, recipe.inputs, recipe.outputs, batch, f"{what}, evaluation batch {index}")
        collected.append(arrays)
    return [np.concatenate(parts) for parts in zip(*collected, strict=True)]


def check_outputs(
    arrays: Arrays, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch: Batch, where: str
) -> None:
    """Raise if an output is not as declared, or not finite."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        check_array(batch[spec.name], spec, where, sizes)
    for array, spec in zip(arrays, outputs, strict=True):
        check_array(array, spec, where, sizes)
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ModelBuildError(
                f"{where}: output '{spec.name}' has {bad} of {np.size(array)} values that are NaN or infinite; "
                "fix the factory, or the weights it loads"
            )


def check_export(module: Arrays, exported: Arrays, recipe: ModelRecipe) -> float:
    """Return the largest difference between module and exported graph; raise if it is more than rounding."""
    worst = 0.0
    for ours, theirs, spec in zip(exported, module, recipe.outputs, strict=True):
        difference = float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64))))
        allowed = EXPORT_TOLERANCE * max(1.0, float(np.max(np.abs(theirs))))
        if difference > allowed:
            raise ModelBuildError(
                f"the exported graph is not the module: output '{spec.name}' differs by {difference:.3g}, "
                f"allowed {allowed:.3g}; look for data-dependent branches or randomness in the module"
            )
        worst = max(worst, difference)
    return worst


def cosine(a: Arrays, b: Arrays) -> float:
    """Return the cosine similarity of outputs, averaged over samples."""
    left, right = _rows(a), _rows(b)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products = np.sum(left * right, axis=1)
    both_zero = (norms == 0) & np.all(left == right, axis=1)
    return float(np.mean(np.where(both_zero, 1.0, products / np.where(norms == 0, 1.0, norms))))


def top1_agreement(a: Arrays, b: Arrays) -> float:
    """Return the share of samples whose highest value of the first output is at the same place."""
    return float(np.mean(np.argmax(_rows(a[:1]), axis=1) == np.argmax(_rows(b[:1]), axis=1)))


def gate(evaluation: Evaluation, baseline: Arrays, deployed: Arrays, precision: str) -> Metric:
    """Return the metric if it passes.

    Raises
    ------
    ModelBuildError
        With metric, value, limit and the ways out.
    """
    function = {"top1_agreement": top1_agreement, "cosine": cosine}[evaluation.metric]
    # The metrics compare with the float model, which agrees with itself. Rounded: CPUs differ in the last bits.
    metric = Metric(evaluation.metric, 1.0, round(function(deployed, baseline), 3), round(1.0 - evaluation.max_drop, 6))
    if metric.quantized < metric.gate:
        raise ModelBuildError(
            f"the accuracy gate failed: {metric.name} is {metric.quantized:.3f} with {precision}, float32 has "
            f"{metric.baseline:.3f}, lowest allowed is {metric.gate:.3f} (max_drop={evaluation.max_drop:g}); "
            "calibrate on data closer to what the model will see, allow a larger max_drop, or set precision=Float32()"
        )
    return metric


def latency(baseline: bytes, deployed: bytes, batch: Batch) -> dict[str, float]:
    """Return milliseconds per sample on one thread, measured alternately so that both meet the same machine."""
    sessions = {"float32": open_session(baseline, exact=False), "deployed": open_session(deployed, exact=False)}
    sample = {name: array[:1] for name, array in batch.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(LATENCY_RUNS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, sample)
            times[name].append((time.perf_counter() - start) * 1000)
    result = {f"{name}_ms": round(statistics.median(t[1:]), 3) for name, t in times.items()}
    return result | {"ratio": round(result["deployed_ms"] / result["float32_ms"], 3)}


def _rows(arrays: Arrays) -> np.ndarray[Any, Any]:
    return np.concatenate([a.reshape(a.shape[0], -1).astype(np.float64) for a in arrays], axis=1)
