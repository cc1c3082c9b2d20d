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
    """The values of a row; a hidden one has the value that the data have on average, or most often.

    Parameters
    ----------
    inputs
        The inputs of one item.
    places
        Where each feature is: the name of its input, and its place there.
    fill
        The value that hides each feature: a number, or a string if its input has strings.
    names
        The names of the features.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        places: Sequence[tuple[str, int]],
        fill: Sequence[float | str],
        names: Sequence[str],
    ) -> None:
        self._inputs, self._names = inputs, names
        self.count = len(names)
        self._of: dict[str, list[tuple[int, int, float | str]]] = {name: [] for name in inputs}
        for feature, ((name, place), value) in enumerate(zip(places, fill, strict=True)):
            self._of[name].append((feature, place, value))

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch with the row for each coalition, without the features whose bits are set."""
        return {name: _filled(tensor, self._of[name], coalitions) for name, tensor in self._inputs.items()}

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


def _filled(tensor: Tensor, features: Sequence[tuple[int, int, float | str]], coalitions: Sequence[int]) -> Tensor:
    """Return a row of an input once for each coalition, with the values of what that hides."""
    shape = (len(coalitions), *tensor.shape[1:])
    if isinstance(tensor.data, list):
        texts: list[str] = []
        for coalition in coalitions:
            row = [*tensor.data]
            for feature, place, value in features:
                if coalition >> feature & 1:
                    row[place] = str(value)
            texts += row
        return Tensor(tensor.dtype, shape, texts)
    size = ITEM_SIZES[tensor.dtype]
    covers = [(feature, place, packed(tensor.dtype, [float(value)])) for feature, place, value in features]
    rows = []
    for coalition in coalitions:
        numbers = bytearray(tensor.data)
        for feature, place, cover in covers:
            if coalition >> feature & 1:
                numbers[place * size : (place + 1) * size] = cover
        rows.append(numbers)
    return Tensor(tensor.dtype, shape, b"".join(rows))
