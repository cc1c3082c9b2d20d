"""When an invocation must have answered.

A row whose invocation is killed before it answers counts as a failure. Its message comes back, and may end as a dead
letter that has a row. So rows are written only while there is time to say so, and items are preprocessed only while
there is time to score them.
"""

from __future__ import annotations

import math
import time
from typing import Any

from inference_runtime.errors import LittleTimeError

_KEPT_SHARE, _MOST_KEPT_SECONDS = 0.1, 1.0
"""Seconds of an invocation that are kept for the answer: metrics, JSON, and the way back."""


class Deadline:
    """Counts the time of an invocation, from its beginning.

    Parameters
    ----------
    context
        Lambda's; without one, there is no limit.
    """

    def __init__(self, context: Any) -> None:  # noqa: ANN401 - Lambda's object
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        seconds = math.inf if remaining is None else remaining() / 1000
        self._end = time.monotonic() + seconds - min(_KEPT_SHARE * seconds, _MOST_KEPT_SECONDS)

    def left(self) -> float:
        """Return the seconds until the answer must be on its way; infinite if there is no limit."""
        return self._end - time.monotonic()

    def check(self) -> None:
        """Raise if it is too late to begin with writing rows.

        Raises
        ------
        LittleTimeError
            The workflow splits the batch then, as if the invocation had run out of time.
        """
        if (left := self.left()) <= 0:
            raise LittleTimeError(f"{-left:.1f} seconds too late to write rows: the function's time is nearly over")


_LARGEST_SHARE = 0.25
"""Share of the time that one of several items gets at most."""

_LEAST_SHARE = 0.05
"""Share of an item's time below which no further item is begun."""

_FAIR_SHARE = 0.75
"""Share of an item's time that an item must have had before it is to blame."""


class TimeBudget:
    """Shares time among the items of a batch, so that a few slow ones leave some for the others.

    Parameters
    ----------
    seconds
        For all of them.
    count
        How many there are. A single one gets all the time.
    """

    def __init__(self, seconds: float, count: int) -> None:
        self._end = time.monotonic() + seconds
        self._alone = count <= 1
        self._item_timeout = seconds if self._alone else seconds * _LARGEST_SHARE

    def left(self) -> float:
        """Return the seconds that are left for all items, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Return whether too little is left to begin with another item."""
        return self.left() < self._item_timeout * _LEAST_SHARE

    def item_timeout(self) -> float:
        """Return the seconds that the next item gets."""
        return min(self._item_timeout, self.left())

    def is_fair(self, seconds: float) -> bool:
        """Return whether an item that takes longer than this is slow, and was not merely late in its batch."""
        return self._alone or seconds >= self._item_timeout * _FAIR_SHARE
