"""The room that a response has for explanations, which take no more however many there are."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Explanation = Mapping[str, Any]

EXPECTED_BYTES = 1_000
"""Bytes of an explanation as JSON, as long as there is none to go by."""

_HEAT_MAP = {"heat_map": f"s3://{'b' * 63}/tensors/{'0' * 64}"}  # the longest address


class Room:
    """Counts the bytes of explanations as `grouped` has them, where what is the same takes them once.

    Parameters
    ----------
    most
        Bytes that they may take as JSON; infinite for no limit.
    indices
        The indices of all items that get an explanation, or the reason why there is none.
    draws
        Whether grids are to get the address of a picture.
    """

    def __init__(self, most: float, indices: Sequence[int], *, draws: bool = False) -> None:
        self._left = most - len(json.dumps(indices))
        self._draws = draws
        self._largest = 0
        self._said: set[str] = set()

    def takes(self, explanation: Explanation) -> bool:
        """Return whether an explanation finds room, and take it."""
        drawn = self._draws and "grid" in explanation  # what is the same may get another picture, or none
        text = json.dumps({**explanation, **(_HEAT_MAP if drawn else {})})
        if text in self._said and not drawn:
            return True
        size = len(text) + len(json.dumps([{"indices": [], "explanation": 0}]))
        if "reason" not in explanation:
            self._largest = max(self._largest, size)
        if size > self._left:
            return False
        self._left -= size
        self._said.add(text)
        return True

    def most(self, items: int) -> int:
        """Return how many of so many items are likely to find room, if they are as large as the largest so far."""
        return int(min(items, max(0.0, self._left / (self._largest or EXPECTED_BYTES))))


def grouped(explanations: Mapping[int, Explanation]) -> list[dict[str, Any]]:
    """Return `[{"indices", "explanation"}]`, in which what is the same for several items is told once."""
    found: dict[str, dict[str, Any]] = {}
    for index in sorted(explanations):
        said = explanations[index]
        found.setdefault(json.dumps(said), {"indices": [], "explanation": said})["indices"].append(index)
    return list(found.values())
