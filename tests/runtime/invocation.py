"""The context that Lambda gives a handler besides the event."""

from __future__ import annotations

import time


class Context:
    """Lambda's, of an invocation that may take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000))
