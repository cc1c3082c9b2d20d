"""Vectors that stand for labels, in a file as NumPy writes it. A synth has no NumPy."""

from __future__ import annotations

import ast
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAGIC = b"\x93NUMPY"
_LETTERS = {"<f2": "e", "<f4": "f", "<f8": "d"}
# By the size of a number. Python 3.11 has no views of numbers in half precision.
_INTEGERS: dict[int, Literal["H", "I", "Q"]] = {2: "H", 4: "I", 8: "Q"}
_BLOCK = 8192
_MOST_BYTES = 50_000_000  # of a function's package of 250 MB


def check_prototypes(prototypes: Path, labels: int) -> int:
    """Return how many numbers each vector has.

    Parameters
    ----------
    prototypes
        An ``.npy`` file with an array (labels, numbers) of floats.
    labels
        How many vectors there must be.

    Raises
    ------
    PropError
        The file does not exist, or has something else. Or a vector has no direction: it is all zeros, or not finite.
    """
    if not prototypes.is_file():
        raise PropError(f"prototypes must be an existing file, got '{prototypes}'; looked in {Path.cwd()}")
    if (size := prototypes.stat().st_size) > _MOST_BYTES:
        raise PropError(f"prototypes must be at most {_MOST_BYTES:,} bytes, got {size:,} in '{prototypes}'")
    rule = f"prototypes must be a .npy file of floats ({labels}, numbers), a vector for each label"
    try:
        kind, by_column, shape, data = _read(prototypes.read_bytes())
    except (ValueError, SyntaxError, KeyError, TypeError, struct.error, MemoryError, RecursionError) as error:
        raise PropError(f"{rule}, got '{prototypes}', which is none: {error}") from None
    if kind not in _LETTERS or len(shape) != 2 or shape[0] != labels or shape[1] < 1:  # noqa: PLR2004
        raise PropError(f"{rule}, got {kind} {shape} in '{prototypes}'; save them with numpy.save")
    count, width = shape
    letter = _LETTERS[kind]
    if len(data) != count * width * struct.calcsize(letter):
        raise PropError(f"{rule}, got {len(data):,} bytes for {kind} {shape} in '{prototypes}'; the file is damaged")
    numbers = data.cast(_INTEGERS[struct.calcsize(letter)])
    for place in range(count):
        vector = numbers[place::count] if by_column else numbers[place * width : (place + 1) * width]
        if not _has_direction(vector, letter):
            raise PropError(
                f"prototypes must be vectors with a direction, got vector {place} with zeros alone or a number that is "
                f"not finite in '{prototypes}'; make it again"
            )
    return width


def _has_direction(vector: memoryview, letter: str) -> bool:
    """Return whether all numbers are finite, and one is not zero."""
    found = False
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]  # as floats of Python, all of a large file take a gigabyte
        numbers = struct.unpack(f"<{len(block)}{letter}", block.tobytes())
        if not all(map(math.isfinite, numbers)):
            return False
        found = found or any(numbers)
    return found


def _read(content: bytes) -> tuple[str, bool, Sequence[int], memoryview]:
    """Return type, order, shape and elements: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""
    if content[:6] != _MAGIC:
        raise ValueError("it does not begin as one")
    start = 10 if content[6] == 1 else 12
    (length,) = struct.unpack("<H" if start == 10 else "<I", content[8:start])  # noqa: PLR2004
    header = ast.literal_eval(content[start : start + length].decode("latin-1").strip())
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its shape is {shape!r:.100}")
    return str(header["descr"]), bool(header["fortran_order"]), shape, memoryview(content)[start + length :]
