"""When an invocation must have answered.

A row whose invocation is killed before it answers counts as a failure: its message comes back, and may end as a dead
letter that has a row. So rows are written only while there is time to say so.
"""

from __future__ import annotations

import math
import time
from typing import Any

from inference_runtime.errors import LittleTimeError

_KEPT_SHARE, _MOST_KEPT_SECONDS = 0.1, 1.0
"""What is kept of an invocation's time for the answer: metrics, JSON, and the way back."""


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
            The workflow halves the batch then, as if the invocation had run out of time.
        """
        if (left := self.left()) <= 0:
            raise LittleTimeError(f"{-left:.1f} seconds too late to write rows: the function's time is nearly over")
