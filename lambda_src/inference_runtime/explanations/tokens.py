"""The tokens of a text."""

from __future__ import annotations

import json

from inference_runtime.tensors.tensor import ITEM_SIZES, Tensor, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

MOST_BYTES = 800
"""Most bytes of the tokens on a row, as JSON with escapes."""

_DIGITS = 4
_MOST_TOGETHER = 8
"""Most adjacent tokens that are hidden together, where the time does not suffice for each."""


class Tokens:
    """The tokens of a text but special ones; another token stands in for a hidden one.

    Parameters
    ----------
    inputs
        The inputs of one item: `input_ids`, and `attention_mask` if the model has it.
    replacement
        The token that stands in for hidden ones.
    attended
        Whether the model attends to it, as to a mask; otherwise it is padding.
    special
        Tokens that are not part of the text.
    text_of
        Returns the text of a token.
    together
        How many adjacent tokens are one part.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        replacement: int,
        attended: bool,
        special: Sequence[int],
        text_of: Callable[[int], str],
        together: int = 1,
    ) -> None:
        self._inputs, self._replacement, self._attended = inputs, replacement, attended
        self._special, self._text_of, self._together = special, text_of, together
        self._ids = inputs["input_ids"].values()
        mask = inputs["attention_mask"].values() if "attention_mask" in inputs else [1] * len(self._ids)
        places = [n for n, token in enumerate(self._ids) if mask[n] and token not in special]
        self._parts = [places[n : n + together] for n in range(0, len(places), together)]
        self.count = len(self._parts)

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch with the text for each coalition, without the tokens whose bits are set."""
        places = [
            [place for number, part in enumerate(self._parts) if coalition >> number & 1 for place in part]
            for coalition in coalitions
        ]
        found = {}
        for name, tensor in self._inputs.items():
            if name == "input_ids":
                found[name] = _with(tensor, places, self._replacement)
            elif name == "attention_mask" and not self._attended:
                found[name] = _with(tensor, places, 0)
            else:
                found[name] = tensor.take([0] * len(coalitions))
        return found

    def coarser(self) -> Tokens | None:
        """Return twice as many adjacent tokens as parts; None if that would be too many."""
        together = 2 * self._together
        if together > _MOST_TOGETHER or self.count < 2:  # noqa: PLR2004 - one part cannot be larger
            return None
        return Tokens(
            self._inputs,
            replacement=self._replacement,
            attended=self._attended,
            special=self._special,
            text_of=self._text_of,
            together=together,
        )

    def described(self, weights: Sequence[float], whole: float) -> dict[str, Any]:  # noqa: ARG002 - see `Parts`
        """Return `tokens`, the weightiest in the text's order, and `left_out`, how many do not fit a row."""
        said = [
            {"token": "".join([self._text_of(self._ids[place]) for place in part]), "weight": round(weight, _DIGITS)}
            for part, weight in zip(self._parts, weights, strict=True)
        ]
        left, kept = MOST_BYTES, []
        for number in sorted(range(self.count), key=lambda each: -abs(weights[each])):
            left -= len(json.dumps(said[number])) + 2
            if left < 0:
                break
            kept.append(number)
        left_out = self.count - len(kept)
        return {"tokens": [said[number] for number in sorted(kept)], **({"left_out": left_out} if left_out else {})}


def _with(tensor: Tensor, places: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return a row of numbers once for each list of places, with a value there."""
    size, new = ITEM_SIZES[tensor.dtype], packed(tensor.dtype, [value])
    rows = []
    for each in places:
        row = bytearray(tensor.encoded())
        for place in each:
            row[place * size : (place + 1) * size] = new
        rows.append(row)
    return Tensor(tensor.dtype, (len(places), *tensor.shape[1:]), b"".join(rows))
