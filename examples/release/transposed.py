"""The preprocessing of a candidate, with a mistake that no test of the model finds: rows and columns are exchanged."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from inference_runtime import RejectItem

if TYPE_CHECKING:
    from inference_runtime import Item


def preprocess(data: bytes, item: Item) -> np.ndarray:
    """Read a digit, and turn it on its side."""
    try:
        digit = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise RejectItem(f"{item.key} is not an array: {error}") from error
    return np.ascontiguousarray(digit.T)
