"""Interfaces of the parts of an item and of what is explained, for annotations: no function imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference_runtime.tensors.tensor import Tensor


class Parts(Protocol):
    """The parts of an item that can be hidden from the model, such as the cells of a picture.

    Attributes
    ----------
    count
        How many there are.
    """

    count: int

    def hidden(self, coalitions: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch of inputs by name: for each coalition the item without those parts whose bits are set."""
        ...

    def coarser(self) -> Parts | None:
        """Return fewer and larger parts, which take fewer runs of the model; None if there are none."""
        ...

    def described(self, weights: Sequence[float], whole: float) -> dict[str, Any]:
        """Return what a row says of the parts.

        Parameters
        ----------
        weights
            How much each part adds to what is explained.
        whole
            The number that is explained, of the whole item.
        """
        ...


class Target(Protocol):
    """The number that is explained of an answer."""

    def scores(self, output: Tensor) -> list[float]:
        """Return the number for each item of a batch of outputs."""
        ...

    def described(self) -> dict[str, Any]:
        """Return what a row says of it."""
        ...
