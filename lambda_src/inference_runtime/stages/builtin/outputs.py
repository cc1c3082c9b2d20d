"""Stores a model's outputs as they are, and chooses one of them for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


def outputs_postprocessor() -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function that returns each output as a number or nested list, by name."""

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        return {name: array.tolist() for name, array in outputs.items()}

    return postprocess


def select_output(outputs: Mapping[str, Array], name: str | None) -> Array:
    """Return the output of this name, or without a name the only one.

    Raises
    ------
    RuntimeError
        If there is none, or it is not clear which: wrong options, not a wrong object.
    """
    if name is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if name is None or name not in outputs:
        raise RuntimeError(f"output is {name!r}, but the model returns {sorted(outputs)}: name one of them")
    return outputs[name]
