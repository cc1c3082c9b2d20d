"""Arrays in files, and what a person wants to know of them."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from cdk_inference.errors import PropError
from inference_runtime.stages.inputs import type_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference_runtime.tensors.tensor import Array

UNNAMED = "output"
"""The name of the array of an ``.npy`` file, as long as no model says its name."""


def read_arrays(data: bytes, source: str, name: str) -> dict[str, Array]:
    """Read arrays in NumPy's formats, which are never unpickled.

    Parameters
    ----------
    data
        The bytes of an ``.npz`` or ``.npy`` file.
    source
        Where they are from, for messages.
    name
        The name of the array in an ``.npy`` file.

    Raises
    ------
    PropError
        They are not such a file.
    """
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        return {name: found} if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise PropError(f"input of a postprocessing must be an .npz or .npy file, got {source}: {error}") from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name into an ``.npz`` file; by `numpy.savez`, some names would be its own arguments."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                strings = array.dtype.kind == "O"
                np.lib.format.write_array(member, array.astype(str) if strings else array, allow_pickle=False)


def facts(array: Array) -> dict[str, Any]:
    """Return dtype and shape of an array, and the range and mean of its finite numbers, if it has any.

    `not_finite` is how many others there are.
    """
    found: dict[str, Any] = {"dtype": type_of(array), "shape": list(array.shape)}
    if array.dtype.kind not in "biuf":
        return found
    numbers = array[np.isfinite(array)]
    if numbers.size:
        least, most = numbers.min().item(), numbers.max().item()
        # In parts, whose sum does not overflow; rounding may leave the range.
        mean = float((numbers.astype(np.float64) / numbers.size).sum())
        found |= {"min": least, "max": most, "mean": min(max(mean, float(least)), float(most))}
    if numbers.size < array.size:
        found["not_finite"] = array.size - numbers.size
    return found
