"""Stores a vector that a model makes of an object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference_runtime.errors import RejectItem
from inference_runtime.stages.builtin.outputs import select_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


def embedding_postprocessor(
    output: str | None = None,
    encoding: Literal["binary", "list"] = "binary",
    *,
    normalize: bool = False,
) -> Callable[[Mapping[str, Array], Item], dict[str, Any]]:
    """Return a postprocessing function for a model that makes a vector of each object.

    Parameters
    ----------
    output
        The model's output that holds the vector; needed if it has several.
    encoding
        `binary` for float32 numbers, little-endian; `list` for a list of numbers.
    normalize
        Whether to scale the vector to length 1. One of zeros has no direction: the object is rejected.

    Returns
    -------
    Callable
        `postprocess(outputs, item)`, returning `embedding`, and `dimensions`, how many numbers it has.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    if encoding not in ("binary", "list"):
        raise ValueError(f'encoding is "{encoding}", expected "binary" or "list"')

    def postprocess(outputs: Mapping[str, Array], item: Item) -> dict[str, Any]:  # noqa: ARG001 - the stage's signature
        vector = select_output(outputs, output)
        if vector.ndim != 1:  # wrong options, not a wrong object
            raise RuntimeError(f"the model's output has shape {list(vector.shape)}, expected a vector")
        if normalize:
            wide = vector.astype(np.float64)  # in which no square of a smaller type overflows
            length = float(np.linalg.norm(wide))
            if length == 0:
                raise RejectItem("the embedding is all zeros, which has no direction")
            vector = wide / length
        numbers = vector.astype("<f4")
        # As text, since nine digits say all of a float32; tolist() would store seventeen.
        stored = numbers.tobytes() if encoding == "binary" else [float(str(number)) for number in numbers]
        return {"embedding": stored, "dimensions": len(numbers)}

    return postprocess
