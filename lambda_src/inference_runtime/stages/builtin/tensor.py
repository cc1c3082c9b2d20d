"""Takes a file that already holds the model's input."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from inference_runtime.errors import RejectItem, reason_of
from inference_runtime.tensors.tensor import DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


def tensor_preprocessor(
    format: Literal["npy", "raw"] = "npy",
    dtype: str | None = None,
    shape: Sequence[int] | None = None,
) -> Callable[[bytes, Item], Array]:
    """Return a preprocessing function for a file with one array, without batch axis.

    Parameters
    ----------
    format
        `npy`, as `numpy.save` writes it, or `raw`: nothing but the elements, little-endian in C order.
    dtype, shape
        For `raw`: what the elements are. An `npy` file says it itself.

    Returns
    -------
    Callable
        `preprocess(data, item)`, returning the array. A damaged file, or a raw one of another length, is rejected. The
        stage does not know what the model takes. An `npy` file of another shape is rejected afterwards. One of another
        type becomes a dead letter, as with any function that returns a wrong type.

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    if format == "npy":
        if dtype is not None or shape is not None:
            raise ValueError("dtype and shape are given, but an npy file has its own: leave them out")
        return _read_npy
    if format != "raw":
        raise ValueError(f'format is "{format}", expected "npy" or "raw"')
    if dtype is None or dtype not in DTYPES or shape is None:
        raise ValueError(f"dtype is {dtype!r} and shape is {shape!r}, raw needs a shape and one of {sorted(DTYPES)}")
    elements, dimensions = dtype, list(shape)

    def read_raw(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
        try:
            return Tensor(elements, dimensions, data).array()
        except ValueError as error:
            raise RejectItem(str(error)) from error

    return read_raw


def _read_npy(data: bytes, item: Item) -> Array:  # noqa: ARG001 - the stage's signature
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, kind = reader(stream)
        dimensions, name = f"{list(shape)!s:.100}", kind.name
    except Exception as error:
        # numpy parses the header as Python syntax, and raises anything on damaged ones. A dimension may be a number
        # that Python does not print, or a type one that numpy has no name for.
        raise RejectItem(f"not an npy file: {reason_of(error)}") from error
    # numpy's own reader would allocate whatever the header claims before it reads anything.
    if name not in DTYPES or len(data) - stream.tell() != math.prod(shape) * kind.itemsize:
        raise RejectItem(f"npy file does not hold the {name} {dimensions} that its header claims")
    try:
        array = np.frombuffer(data, kind, offset=stream.tell()).reshape(shape, order="F" if fortran_order else "C")
    except (ValueError, OverflowError, TypeError) as error:
        # Dimensions that are negative, huge next to a zero, too many, or True.
        raise RejectItem(f"npy file has the shape {dimensions}: {error}") from error
    return array.astype(kind.newbyteorder("<"), copy=False)
