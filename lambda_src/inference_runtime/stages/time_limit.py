"""Ends a call that takes too long, as far as Python can: not inside of one call of C that never returns."""

from __future__ import annotations

import math
import signal
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    _Result = TypeVar("_Result")

_AGAIN = 1.0
"""Seconds after which the call is interrupted once more: code with a bare `except` may swallow an interruption."""

_SHORTEST = 0.001  # a timer of 0 seconds would be none


class TookTooLongError(Exception):
    """A call was ended because it took too long.

    Attributes
    ----------
    seconds
        That it had.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"took longer than {seconds:.2g} s")
        self.seconds = seconds


class NotReadyError(Exception):
    """The process for isolated items does not start, or not in time."""


class _Interruption(BaseException):
    """Ends the call; not an `Exception`, which code that is interrupted would take for its own."""


def call_within(seconds: float, function: Callable[[], _Result], *, cpu: bool = False) -> _Result:
    """Return what a function returns, or raise if it takes too long.

    Signals reach the main thread only, in which Lambda calls handlers. In any other thread there is no limit.

    Parameters
    ----------
    seconds
        That it may take; infinite for no limit.
    function
        Takes no arguments.
    cpu
        Whether to count the processor's time of this process instead of the clock's. A busy machine then ends nothing
        early.

    Raises
    ------
    TookTooLongError
        If it took longer.
    """
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        return function()
    timer, number = (signal.ITIMER_PROF, signal.SIGPROF) if cpu else (signal.ITIMER_REAL, signal.SIGALRM)
    interruption = _Interruption()
    running = True

    def interrupt(*_: object) -> None:
        # The signal may come while the call ends.
        if running:
            raise interruption.with_traceback(None)

    previous = signal.signal(number, interrupt)
    try:
        signal.setitimer(timer, max(seconds, _SHORTEST), _AGAIN)
        try:
            return function()
        finally:
            running = False
    except _Interruption as error:
        if error is not interruption:  # of a call around this one
            raise
        running = False
        raise TookTooLongError(seconds) from None
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, previous)
