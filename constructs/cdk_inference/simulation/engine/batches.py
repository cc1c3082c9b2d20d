"""The things that move through a simulation: objects that arrived together, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Lot:
    """Objects that arrived shortly after each other.

    Parameters
    ----------
    arrived
        Their mean moment of arrival.
    visible
        When the last of them was in the queue.
    count
        How many they are.
    receives
        How often they have been received before.
    """

    arrived: float
    visible: float
    count: int
    receives: int = 0

    def split(self, count: int) -> tuple[Lot, Lot]:
        """Return so many of them, and the rest."""
        first = Lot(self.arrived, self.visible, count, self.receives)
        return first, Lot(self.arrived, self.visible, self.count - count, self.receives)


def objects(lots: Iterable[Lot]) -> int:
    """Return how many objects are in lots."""
    return sum(lot.count for lot in lots)


@dataclass(slots=True)
class Batch:
    """Objects that the pipe hands over together.

    Parameters
    ----------
    lots
        The objects.
    received
        When they were received.
    legs
        Ways that some of them are still on, before their messages can be deleted.
    """

    lots: list[Lot]
    received: float
    legs: int = 0
