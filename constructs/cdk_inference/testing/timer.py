"""Keeps the alarm of whoever runs the tests, such as pytest-timeout: the runtime sets the same one for an object."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHORTEST = 0.001  # a timer of 0 seconds would be none


@contextmanager
def kept_alarm() -> Iterator[None]:
    """Set the alarm again that was set before, less the time that has passed."""
    seconds, interval = signal.getitimer(signal.ITIMER_REAL)
    begin = time.monotonic()
    try:
        yield
    finally:
        if seconds:
            left = max(seconds - (time.monotonic() - begin), _SHORTEST)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
