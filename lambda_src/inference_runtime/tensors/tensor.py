"""An array as its type, its shape and its bytes: all that a model needs, and nothing that numpy would be imported for.

Written without `dataclasses`, whose import alone takes longer than all of this module's work in a cold start.
"""

from __future__ import annotations

import json
import struct
from math import prod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Data = bytes | bytearray | memoryview

STRING = "string"

# The letters of the struct module. bfloat16 has none: it is the upper half of a float32.
_FORMATS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}

DTYPES = frozenset(_FORMATS)
"""Types of numbers that can travel between stages, by numpy's names."""

ITEM_SIZES = {name: struct.calcsize(letter) for name, letter in _FORMATS.items()} | {"bfloat16": 2}
"""Bytes of one element."""

_INT = frozenset({int})
_MAX_SIZE = 2**63 - 1  # of a dimension, to ONNX Runtime
_SHOWN = 100  # characters of a shape in an error's text


class Tensor:
    """An array, which nobody changes.

    Attributes
    ----------
    dtype
        numpy's name of the type, `bfloat16`, or `string`.
    shape
        Dimensions.
    data
        The elements, little-endian and in C order; for `string` a list of `str`.

    Raises
    ------
    ValueError
        If the type is none of these, the shape is none, or they ask for another number of bytes or strings.
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(self, dtype: str, shape: Sequence[int], data: Data | list[str]) -> None:
        self.dtype = dtype
        self.shape = shape = tuple(shape)
        self.data = data
        size = ITEM_SIZES.get(dtype, 1)
        text = dtype == STRING
        # One condition, for a tensor is made in each run of a model.
        if (
            isinstance(data, list) is not text
            or not _INT.issuperset(map(type, shape))
            or (shape and not 0 <= min(shape) <= max(shape) <= _MAX_SIZE)
            or prod(shape) * size != len(data)
            or not (text or dtype in ITEM_SIZES)
        ):
            raise ValueError(self._contradiction())

    def _contradiction(self) -> str:
        if self.dtype not in ITEM_SIZES and self.dtype != STRING:
            return f"tensor has dtype {self.dtype!r}, expected {STRING} or one of {', '.join(sorted(ITEM_SIZES))}"
        shape = f"{list(self.shape)!s:.{_SHOWN}}"
        if not all(type(n) is int and 0 <= n <= _MAX_SIZE for n in self.shape):
            return f"tensor of {self.dtype} has the shape {shape}, expected whole numbers from 0 to 2**63 - 1"
        unit = "strings" if isinstance(self.data, list) else "bytes"
        expected = prod(self.shape) * ITEM_SIZES.get(self.dtype, 1)
        return f"tensor of {self.dtype} {shape} has {len(self.data)} {unit}, expected {expected}"

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        return self.dtype == other.dtype and self.shape == other.shape and self.data == other.data

    __hash__ = None  # type: ignore[assignment] # a list cannot be hashed, and nobody needs to

    def __repr__(self) -> str:
        return f"Tensor({self.dtype} {list(self.shape)!s:.{_SHOWN}})"

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """Return numpy's array as a tensor, without a copy if its layout is that of a tensor.

        Raises
        ------
        ValueError
            If its type cannot travel.
        """
        if array.dtype.kind in "OUT":
            strings = array.reshape(-1).tolist()
            if not all(isinstance(string, str) for string in strings):
                raise ValueError(f"array of {array.dtype} holds something other than strings")
            return cls(STRING, array.shape, strings)
        plain = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        if plain.dtype.name not in ITEM_SIZES:
            raise ValueError(f"tensor has dtype {plain.dtype.name!r}, expected one of {', '.join(sorted(ITEM_SIZES))}")
        return cls(plain.dtype.name, plain.shape, plain.reshape(-1).view("uint8").data)

    def array(self) -> Array:
        """Return the tensor as numpy's array, read-only; numbers without a copy.

        Raises
        ------
        TypeError
            For bfloat16, unless the package `ml_dtypes` is imported, which gives numpy this type.
        """
        import numpy as np  # noqa: PLC0415 - a function that never asks for an array does not import it

        if isinstance(self.data, list):
            found = np.empty(len(self.data), object)
            found[:] = self.data
            found = found.reshape(self.shape)
        else:
            kind = np.dtype(self.dtype)
            found = np.frombuffer(self.data, kind.newbyteorder("<") if self.dtype in DTYPES else kind)
            found = found.reshape(self.shape)
        found.flags.writeable = False
        return found

    @property
    def nbytes(self) -> int:
        """How many bytes `encoded` has."""
        return len(self.encoded()) if isinstance(self.data, list) else len(self.data)

    def encoded(self) -> Data:
        """Return the elements as bytes: as they are, or strings as a JSON list."""
        if not isinstance(self.data, list):
            return self.data
        return json.dumps(self.data).encode()

    @classmethod
    def decoded(cls, dtype: str, shape: Sequence[int], data: Data) -> Tensor:
        """Return the tensor of which `encoded` returned these bytes.

        Parameters
        ----------
        dtype, shape
            The type and shape of that tensor.
        data
            The result of `encoded`; numbers are kept, not copied.

        Raises
        ------
        ValueError
            If they are not of this type and shape.
        """
        if dtype != STRING:
            return cls(dtype, shape, data)
        strings = json.loads(bytes(data))
        if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
            raise ValueError(f"tensor of {dtype} {list(shape)!s:.{_SHOWN}} is not a list of strings")
        return cls(dtype, shape, strings)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return items `start` to before `stop`, without a copy; like a slice, at most those that there are."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        count, row = max(0, stop - start), self._row
        data = self.data if isinstance(self.data, list) else memoryview(self.data)
        return Tensor(self.dtype, (count, *self.shape[1:]), data[start * row : (start + count) * row])

    def take(self, rows: Sequence[int]) -> Tensor:
        """Return these items, in this order.

        Raises
        ------
        IndexError
            If there is no such item.
        """
        row = self._row
        if rows and not 0 <= min(rows) <= max(rows) < self.shape[0]:
            raise IndexError(f"tensor has {self.shape[0]} items, there are no {list(rows)!s:.100}")
        shape = (len(rows), *self.shape[1:])
        if isinstance(self.data, list):
            return Tensor(self.dtype, shape, [string for n in rows for string in self.data[n * row : (n + 1) * row]])
        view = memoryview(self.data)
        return Tensor(self.dtype, shape, b"".join([view[n * row : (n + 1) * row] for n in rows]))

    def values(self) -> Sequence[Any]:
        """Return the elements as Python numbers, booleans or strings, in C order."""
        if isinstance(self.data, list):
            return tuple(self.data)
        data, letter = self.data, _FORMATS.get(self.dtype)
        if letter is None:
            data, letter = bytearray(2 * len(self.data)), "f"
            data[2::4], data[3::4] = self.data[::2], self.data[1::2]
        return struct.unpack(f"<{prod(self.shape)}{letter}", data)

    @property
    def _row(self) -> int:
        """How many bytes, or strings, an item has."""
        return prod(self.shape[1:]) * ITEM_SIZES.get(self.dtype, 1)


def zeros(dtype: str, shape: Sequence[int]) -> Tensor:
    """Return a tensor of zeros, or of empty strings."""
    count = prod(shape)
    return Tensor(dtype, shape, [""] * count if dtype == STRING else bytes(count * ITEM_SIZES[dtype]))


def packed(dtype: str, values: Sequence[float]) -> bytes:
    """Return numbers as the bytes of a tensor of this type, without fractions if it has none.

    Raises
    ------
    struct.error
        If the type does not hold them, such as a negative number in one that begins with 0.
    """
    letter = _FORMATS[dtype]
    return struct.pack(f"<{len(values)}{letter}", *(values if letter in "efd" else map(int, values)))


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Return the items of all tensors, one at least, as one.

    Raises
    ------
    ValueError
        If they differ in type, or in shape but for the number of items.
    """
    first = tensors[0]
    if len(tensors) == 1:
        return first
    if any(t.dtype != first.dtype or t.shape[1:] != first.shape[1:] for t in tensors):
        raise ValueError(f"cannot concatenate {', '.join(map(repr, tensors))!s:.300}: types or shapes differ")
    shape = (sum(len(tensor) for tensor in tensors), *first.shape[1:])
    if first.dtype == STRING:
        return Tensor(STRING, shape, [string for tensor in tensors for string in tensor.data])  # type: ignore[misc]
    return Tensor(first.dtype, shape, b"".join([tensor.data for tensor in tensors]))  # type: ignore[misc]


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return tensors as numpy's arrays, by name."""
    return {name: tensor.array() for name, tensor in tensors.items()}


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return numpy's arrays as tensors, by name."""
    return {name: Tensor.of(array) for name, array in arrays.items()}
