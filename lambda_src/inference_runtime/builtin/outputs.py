"""Stores a model's outputs as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.item import Item
    from inference_runtime.tensors import Array


def outputs_postprocessor() -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function that returns each output as a number or nested list, by name."""

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        return {name: array.tolist() for name, array in outputs.items()}

    return postprocess
