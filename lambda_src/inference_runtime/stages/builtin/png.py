"""Writes the classes of pixels as a PNG with a palette, a few rows at a time.

https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS, _PALETTE, _DEFLATE, _ADAPTIVE, _WHOLE = 8, 3, 0, 0, 0
_AS_IT_IS, _AS_ABOVE = b"\0", b"\2"  # filters of a row
_COLOURS = 256
_LEVEL = 6


def palette_png(width: int, height: int, rows: Iterable[tuple[bytes, int]], transparent: int) -> bytes:
    """Return a PNG whose colours are those of PASCAL VOC.

    Parameters
    ----------
    width, height
        Its size in pixels.
    rows
        The pixels of each row that differs from the one above, `width` bytes, and how many rows are like it.
    transparent
        The number of the colour that is not drawn.
    """
    packed = zlib.compressobj(_LEVEL)
    same = bytes(width)
    pieces = []
    for row, count in rows:
        pieces.append(packed.compress(_AS_IT_IS + row))
        # A row that is like the one above is all zeros as a difference, which packs to next to nothing.
        pieces.extend(packed.compress(_AS_ABOVE + same) for _ in range(count - 1))
    pieces.append(packed.flush())
    header = struct.pack(">IIBBBBB", width, height, _BITS, _PALETTE, _DEFLATE, _ADAPTIVE, _WHOLE)
    alphas = bytes(0 if number == transparent else 255 for number in range(_COLOURS))
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", b"".join(map(_colour, range(_COLOURS)))),
            _chunk(b"tRNS", alphas),
            _chunk(b"IDAT", b"".join(pieces)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _colour(number: int) -> bytes:
    """Return red, green and blue: the bits of the number in turn, from the highest bit of each down."""
    return bytes(sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3))
