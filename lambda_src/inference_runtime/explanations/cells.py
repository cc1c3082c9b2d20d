"""The cells of a picture, or of another field of values."""

from __future__ import annotations

from inference_runtime.tensors.tensor import ITEM_SIZES, Tensor, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    Span = tuple[int, int, bytes]
    """Where a row of pixels begins and ends in the picture's bytes, and what hides it."""

DIGITS = 2
"""Decimal places of a grid's numbers, for which 64 of them take 400 bytes."""

_FINEST_COARSE = 4  # rows or columns: half as many would say next to nothing


class Cells:
    """A grid over one input; a hidden cell shows the same value everywhere.

    Parameters
    ----------
    inputs
        The inputs of one item.
    input
        The name of the input.
    layout
        The order of its axes: `HW`, `HWC` or `CHW`.
    fill
        The value that hides a pixel, for each channel.
    grid
        Most rows, and most columns. A smaller picture has a cell for each pixel.

    Attributes
    ----------
    rows, columns
        The size of the grid.
    """

    def __init__(
        self, inputs: Mapping[str, Tensor], *, input: str, layout: str, fill: Sequence[float], grid: int
    ) -> None:
        self._inputs, self._input, self._layout, self._fill, self._grid = inputs, input, layout, fill, grid
        self._picture = inputs[input]
        sizes = dict(zip(layout, self._picture.shape[1:], strict=True))
        self.rows, self.columns = min(grid, sizes["H"]), min(grid, sizes["W"])
        self.count = self.rows * self.columns
        self._spans = [
            list(
                self._cell(
                    *_part(cell // self.columns, self.rows, sizes["H"]),
                    *_part(cell % self.columns, self.columns, sizes["W"]),
                )
            )
            for cell in range(self.count)
        ]

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch with the picture for each coalition, without the cells whose bits are set."""
        pictures = b"".join([self._without(coalition) for coalition in coalitions])
        shape = (len(coalitions), *self._picture.shape[1:])
        others = {name: tensor.take([0] * len(coalitions)) for name, tensor in self._inputs.items()}
        return {**others, self._input: Tensor(self._picture.dtype, shape, pictures)}

    def coarser(self) -> Cells | None:
        """Return a grid of half as many rows and columns; None if that would be too coarse."""
        half = max(self.rows, self.columns) // 2
        if half < _FINEST_COARSE:
            return None
        return Cells(self._inputs, input=self._input, layout=self._layout, fill=self._fill, grid=half)

    def described(self, weights: Sequence[float], whole: float) -> dict[str, Any]:  # noqa: ARG002 - see `Parts`
        """Return `grid`, what speaks for the answer from 0 to 1, row by row, and `peak`, the weight that is 1 there."""
        peak = max([0.0, *weights])
        shares = [round(max(0.0, weight) / peak, DIGITS) if peak else 0.0 for weight in weights]
        grid = [shares[row * self.columns : (row + 1) * self.columns] for row in range(self.rows)]
        return {"grid": grid, "peak": round(peak, 4)}

    def _without(self, coalition: int) -> bytes:
        picture = bytearray(self._picture.encoded())
        for cell, spans in enumerate(self._spans):
            if coalition >> cell & 1:
                for start, stop, cover in spans:
                    picture[start:stop] = cover
        return bytes(picture)

    def _cell(self, top: int, bottom: int, left: int, right: int) -> Iterator[Span]:
        """Yield the rows of pixels of a cell, for each channel if these are planes."""
        dtype, shape = self._picture.dtype, self._picture.shape[1:]
        size = ITEM_SIZES[dtype]
        if self._layout == "CHW":
            _, height, width = shape
            for channel, value in enumerate(self._fill):
                cover = packed(dtype, [value] * (right - left))
                for row in range(top, bottom):
                    start = ((channel * height + row) * width + left) * size
                    yield start, start + len(cover), cover
            return
        cover = packed(dtype, [*self._fill] * (right - left))
        pixel, width = len(self._fill) * size, shape[1]
        for row in range(top, bottom):
            start = (row * width + left) * pixel
            yield start, start + len(cover), cover


def _part(number: int, count: int, size: int) -> tuple[int, int]:
    """Return where a part of an axis begins and ends, of so many parts that are as equal as can be."""
    return number * size // count, (number + 1) * size // count
