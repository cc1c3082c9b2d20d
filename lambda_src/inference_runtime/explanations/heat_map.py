"""Draws a grid as a picture that can be laid over the one that it explains."""

from __future__ import annotations

import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVELS = 255
_OPAQUE = 200  # of 255: what is below must stay visible
_PALETTE, _SCALE = 3, 8  # PNG's type of colours by number, and bits of a number


def heat_map(grid: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Return a PNG of a grid's values from 0, which is transparent, to 1, which is red.

    Parameters
    ----------
    grid
        Values from 0 to 1, row by row.
    height, width
        Pixels of the picture. Between the centres of two cells, values change evenly.
    """
    stretched = [_stretched(row, width) for row in grid]
    columns = [_stretched(column, height) for column in zip(*stretched, strict=True)]
    lines = [bytes([0, *(round(value * _LEVELS) for value in line)]) for line in zip(*columns, strict=True)]
    colours = b"".join([bytes([_LEVELS, _LEVELS - level, 0]) for level in range(_LEVELS + 1)])  # from yellow to red
    shades = bytes([level * _OPAQUE // _LEVELS for level in range(_LEVELS + 1)])
    header = struct.pack(">IIBBBBB", width, height, _SCALE, _PALETTE, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", colours), (b"tRNS", shades), (b"IDAT", zlib.compress(b"".join(lines))))
    return b"\x89PNG\r\n\x1a\n" + b"".join([_chunk(name, data) for name, data in (*chunks, (b"IEND", b""))])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _stretched(values: Sequence[float], size: int) -> list[float]:
    """Return as many values as asked for, linear between the centres of those that are given."""
    last, found = len(values) - 1, []
    for place in range(size):
        at = min(max((place + 0.5) * len(values) / size - 0.5, 0.0), float(last))
        before = min(int(at), max(last - 1, 0))
        share = at - before
        found.append(values[before] * (1 - share) + values[min(before + 1, last)] * share)
    return found
