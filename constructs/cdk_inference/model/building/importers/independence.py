"""Makes sure that the answer to a sample does not depend on the other samples of its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.importers.sources import Loaded
    from cdk_inference.model.recipe.tensors import Declared

TOLERANCE = 0.02
"""Share of the largest value: batched kernels sum in another order, and float16 or 8 bits may round a step further."""

_FIX = (
    "make BatchNorm use its running statistics (keep track_running_stats=True, and do not call train()), "
    "or declare a fixed batch size"
)


def check_independence(
    loaded: Loaded, recipe: Declared, batch: Batch, expected: Sequence[np.ndarray[Any, Any]]
) -> None:
    """Compare what a model says about a sample in its batch, and alone: functions get batches of any size.

    Parameters
    ----------
    batch, expected
        An example, and the model's outputs for it.

    Raises
    ------
    ModelBuildError
        If they differ, or the model does not take a single sample.
    """
    if loaded.batch_wide or not all(isinstance(s.shape[0], str) for s in (*recipe.inputs, *recipe.outputs)):
        return
    count = len(batch[recipe.inputs[0].name])
    if count == 1:
        # A different second sample: a copy would have the same mean and variance.
        batch = {k: np.concatenate([v, v[..., ::-1] if v.ndim > 1 else v]) for k, v in batch.items()}
        try:
            expected = loaded.run(batch)
        except ModelBuildError:
            return  # what was turned around is not a sample that the model takes
    for index in {0, count - 1}:
        try:
            alone = loaded.run({k: np.ascontiguousarray(v[index : index + 1]) for k, v in batch.items()})
        except ModelBuildError as error:
            raise ModelBuildError(f"{error}; a single sample of the batch must work too: {_FIX}") from error
        for spec, one, all_ in zip(recipe.outputs, alone, expected, strict=True):
            if not np.issubdtype(one.dtype, np.floating):
                continue
            difference, largest = _difference(one[0], all_[index])
            if difference > TOLERANCE * largest:
                raise ModelBuildError(
                    f"output '{spec.name}' of a sample must not depend on the other samples of its batch, got values "
                    f"of up to {largest:.3g} that differ by {difference:.3g} from those of the sample alone; "
                    + (_FIX if _is_steady(loaded, batch, expected) else "make the module compute without randomness")
                )


def _difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the largest difference, and the largest value."""
    if one.shape != other.shape:
        return float("inf"), 1.0
    if not one.size:
        return 0.0, 1.0
    wide, others = one.astype(np.float64), other.astype(np.float64)
    largest = float(np.max(np.abs(others)))
    return float(np.max(np.abs(wide - others))), max(largest, 1e-3)


def _is_steady(loaded: Loaded, batch: Batch, expected: Sequence[np.ndarray[Any, Any]]) -> bool:
    """Tell whether the model gives the same answers to the same batch."""
    return all(np.array_equal(a, b) for a, b in zip(loaded.run(batch), expected, strict=True))
