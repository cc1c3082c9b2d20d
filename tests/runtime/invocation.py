"""The context that Lambda gives a handler besides the event, and a clock for it that tests play."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

from inference_runtime.stages import deadline

if TYPE_CHECKING:
    import pytest


class Context:
    """Lambda's, of an invocation that may take so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000))


class Clock:
    """The clock of deadlines. It goes on only when a test says so, so that a busy machine does not matter.

    Real waiting, such as for S3, still has all the seconds that a deadline leaves: give invocations many.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: self.now))

    def context(self, seconds: float) -> SimpleNamespace:
        """Return the context of an invocation that begins now."""
        end = self.now + seconds
        return SimpleNamespace(get_remaining_time_in_millis=lambda: int((end - self.now) * 1000))
