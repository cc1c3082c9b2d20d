"""Runs a model over the evaluation data, and checks what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import check_array
from cdk_inference.model.building.evaluation.metrics import cosines
from cdk_inference.model.building.evaluation.opening import open_model
from cdk_inference.model.building.evaluation.session import AS_WRITTEN, FUSED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime as ort

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.metrics import Array, Outputs
    from cdk_inference.model.building.evaluation.session import Opened
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.tensors import Declared

EXPORT_TOLERANCE = 1e-3  # of the largest output: float rounding of a deep network stays far below
QUANTIZED_TOLERANCE = 0.02  # a few steps of 8 bits
TINY = 1e-6  # what is smaller may be rounding itself


def predict(
    model: Model,
    recipe: Declared,
    batches: Sequence[Batch],
    what: str,
    *,
    fused: bool = True,
    exact: bool = True,
) -> Outputs:
    """Return the outputs for each batch, checked against the declared ones.

    Parameters
    ----------
    fused
        Run it as a function does, with fused kernels; otherwise each operator as it is written.
    exact
        See `open_session`.
    """
    session = start(model, what, exact=exact, level=FUSED if fused else AS_WRITTEN)
    names = [s.name for s in recipe.outputs]
    collected: Outputs = []
    for index, batch in enumerate(batches):
        try:
            arrays: list[Array] = session.run(names, batch)
        except Exception as error:  # onnxruntime has no base class for errors of operators
            reason = str(error).strip().splitlines()[0][:300]
            raise ModelBuildError(f"{what} cannot run on evaluation batch {index}: {reason}") from error
        check_outputs(arrays, recipe, batch, f"{what}, evaluation batch {index}")
        collected.append(arrays)
    return collected


def start(model: Model, what: str, *, exact: bool = True, level: ort.GraphOptimizationLevel = FUSED) -> Opened:
    """Return a session of a model, of one graph or several.

    Raises
    ------
    ModelBuildError
        With what onnxruntime says, if it does not take the model.
    """
    try:
        return open_model(model, exact=exact, level=level)
    except Exception as error:
        raise ModelBuildError(f"onnxruntime cannot load {what}: {str(error).strip().splitlines()[0][:300]}") from error


def check_outputs(arrays: Sequence[Array], recipe: Declared, batch: Batch, where: str) -> None:
    """Raise if an output is not as declared, has another number of samples than the batch, or is not finite."""
    sizes: dict[str, int] = {}
    for spec in recipe.inputs:
        check_array(batch[spec.name], spec, where, sizes)
    count = len(batch[recipe.inputs[0].name])
    for array, spec in zip(arrays, recipe.outputs, strict=True):
        check_array(array, spec, where, sizes)
        if len(array) != count:
            raise ModelBuildError(
                f"{where}: output '{spec.name}' must have {count} rows, one per sample, got shape {array.shape}; "
                "make the first axis of inputs and outputs the batch"
            )
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ModelBuildError(
                f"{where}: output '{spec.name}' must be finite, got {bad} of {np.size(array)} values that are not; "
                "fix the model, or the weights it loads"
            )


def check_export(original: list[Array], exported: list[Array], recipe: Declared, *, quantized: bool = False) -> float:
    """Return the cosine similarity of the exported graph's outputs with the original's for one batch.

    Parameters
    ----------
    quantized
        Whether the model rounds to 8 bits by itself: then a last bit of a float may become a step of such a number.

    Raises
    ------
    ModelBuildError
        If they differ by more than rounding.
    """
    for ours, theirs, spec in zip(exported, original, recipe.outputs, strict=True):
        if ours.shape != theirs.shape:
            raise ModelBuildError(
                f"the exported graph must compute what the model does, got shape {ours.shape} for output '{spec.name}' "
                f"where the model has {theirs.shape}"
            )
        if not theirs.size:
            continue
        difference = float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64))))
        share = QUANTIZED_TOLERANCE if quantized else EXPORT_TOLERANCE
        allowed = share * max(TINY, float(np.max(np.abs(theirs.astype(np.float64)))))
        if difference > allowed:
            raise ModelBuildError(
                f"the exported graph must compute what the model does, up to {allowed:.3g}, got a difference of "
                f"{difference:.3g} in output '{spec.name}'; look for data-dependent branches or randomness in the "
                "module"
            )
    return round(float(np.mean(cosines([exported], [original]))), 3)


def save_outputs(file: Path, outputs: Outputs) -> None:
    """Write outputs to an ``.npz`` file."""
    arrays: dict[str, Any] = {f"{i}_{j}": array for i, batch in enumerate(outputs) for j, array in enumerate(batch)}
    np.savez(file, **arrays)


def load_outputs(file: Path) -> Outputs:
    """Read what `save_outputs` wrote."""
    outputs: Outputs = []
    with np.load(file) as arrays:
        for name in sorted(arrays.files, key=lambda n: tuple(map(int, n.split("_")))):
            if name.endswith("_0"):
                outputs.append([])
            outputs[-1].append(arrays[name])
    return outputs
