"""How a classifier's output becomes scores, decided by the values that the build saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from cdk_inference.errors import PropError
from cdk_inference.stages.stage_code import shape_text

if TYPE_CHECKING:
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Distribution

Activation: TypeAlias = Literal["softmax", "sigmoid", "none"]

_TOLERANCE = 1e-3
"""Rounding of probabilities, as the function allows for."""

_MEAN_TOLERANCE = 0.01
"""Share by which the mean may differ from one divided by the classes: the build rounds it to three digits."""

_PAIR = 2  # the classes that one score tells apart


def choose_activation(
    given: Activation | None, spec: TensorSpec, classes: int, seen: Distribution | None
) -> Activation:
    """Return the activation that fits an output.

    Parameters
    ----------
    given
        The user's choice; None leaves it to the values.
    spec
        The output.
    classes
        How many classes have names.
    seen
        Its values over the evaluation data; None if the model is not built, which gives ``softmax`` unless one score
        stands for two classes.

    Raises
    ------
    PropError
        There are not as many labels as classes, or the output holds no scores. Or the values contradict the choice, or
        leave it open.
    """
    pair = _is_pair(spec, classes)
    if pair and given == "softmax":
        raise PropError(
            f"activation must be 'sigmoid' or 'none' for one score of two classes, as that of '{spec.name}', got "
            "'softmax'; leave it out"
        )
    if seen is None or not seen.quantiles:
        return given or ("sigmoid" if pair else "softmax")
    lowest, highest = seen.quantiles[0], seen.quantiles[-1]
    in_range = lowest >= -_TOLERANCE and highest <= 1 + _TOLERANCE
    if given == "none" and not in_range:
        raise PropError(
            f"activation must be 'softmax' or 'sigmoid' for the output '{spec.name}', whose values are "
            f"{lowest:g} to {highest:g}, got 'none'; leave it out if one class is right for each object"
        )
    if given is not None:
        return given
    if not in_range:
        return "sigmoid" if pair else "softmax"
    if pair or abs(seen.mean * classes - 1) <= _MEAN_TOLERANCE:
        return "none"
    raise PropError(
        f"activation must be given for the output '{spec.name}', whose values are from 0 to 1 and do not sum up to 1, "
        "got None; pass 'none' if they are scores already, or 'softmax' if they are logits"
    )


def _is_pair(spec: TensorSpec, classes: int) -> bool:
    """Tell whether one score stands for two classes, after a check of how many there are."""
    if len(spec.shape) == 1 and not spec.dtype.startswith("float"):
        raise PropError(
            f"output must hold a score for each class, got '{spec.name}', which is {spec.dtype} "
            f"{shape_text(spec.shape)}; name the output with the scores"
        )
    width = spec.shape[-1] if len(spec.shape) > 1 else 1
    if width == 1 and classes == _PAIR:
        return True
    if not isinstance(width, str) and width != classes:
        raise PropError(
            f"labels must have one name for each of the {width} classes of the model's output '{spec.name}', in order, "
            f"got {classes}"
        )
    return False
