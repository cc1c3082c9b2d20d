"""The features of a row of a table."""

from __future__ import annotations

import json

from inference_runtime.tensors.tensor import ITEM_SIZES, Tensor, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MOST_BYTES = 800
"""Most bytes of the features on a row, as JSON with escapes."""

_DIGITS = 6


class Features:
    """The numbers of one input; a hidden one has the value that the data have on average.

    Parameters
    ----------
    inputs
        The inputs of one item.
    input
        The name of the input.
    fill
        The value that hides each feature.
    names
        The names of the features, in order.
    """

    def __init__(
        self, inputs: Mapping[str, Tensor], *, input: str, fill: Sequence[float], names: Sequence[str]
    ) -> None:
        self._inputs, self._input, self._names = inputs, input, names
        self._row = inputs[input]
        self._fill = [packed(self._row.dtype, [value]) for value in fill]
        self.count = len(names)

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch with the row for each coalition, without the features whose bits are set."""
        size, rows = ITEM_SIZES[self._row.dtype], []
        for coalition in coalitions:
            row = bytearray(self._row.encoded())
            for place, value in enumerate(self._fill):
                if coalition >> place & 1:
                    row[place * size : (place + 1) * size] = value
            rows.append(row)
        batch = Tensor(self._row.dtype, (len(rows), *self._row.shape[1:]), b"".join(rows))
        return {**{name: each.take([0] * len(rows)) for name, each in self._inputs.items()}, self._input: batch}

    def coarser(self) -> None:
        """Return None: neighbouring features have nothing to do with each other."""

    def described(self, weights: Sequence[float], whole: float) -> dict[str, Any]:
        """Return `values`, the weightiest by name, `others`, the sum of the rest, and `base`, which all add up to.

        That is: `base` and the weights add up to what is explained.
        """
        values: dict[str, float] = {}
        left, others = MOST_BYTES, 0.0
        for place in sorted(range(self.count), key=lambda each: -abs(weights[each])):
            weight = round(weights[place], _DIGITS)
            left -= len(json.dumps({self._names[place]: weight}))
            if left < 0:
                others += weights[place]
            else:
                values[self._names[place]] = weight
        rest = {"others": round(others, _DIGITS)} if len(values) < self.count else {}
        return {"values": values, **rest, "base": round(whole - sum(weights), _DIGITS)}
