"""Lets a handler answer warming events, and get ready for snapshots of Lambda SnapStart.

Imports next to nothing: it is on the way of every cold start.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _Function = TypeVar("_Function", bound=Callable[[], object])
    _Answer = TypeVar("_Answer")

WARMING_KEY = "cdk-inference"
"""The member of an event by which warming is told from work; its value is `WARMING`."""

WARMING = "warm"

MAX_HOLD_MS = 10_000
"""An event that asks for more is held no longer than this."""

# Set by Lambda; its own client decides by it too whether there are hooks to run.
_INITIALIZATION = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "")

_log = logging.getLogger(__name__)
_preparations: list[Callable[[], object]] = []  # those that have not been run
_before_snapshot: list[Callable[[], object]] = []
_after_restore: list[Callable[[], object]] = []


def answers_warming(
    handler: Callable[[dict[str, Any], Any], _Answer],
) -> Callable[[dict[str, Any], Any], _Answer | dict[str, bool]]:
    """Decorate a handler, so that it answers a warming event without touching data.

    The event is ``{"cdk-inference": "warm"}``, and the answer ``{"warm": true}``. With ``"hold_ms"``, milliseconds, it
    is given after so long: events that come meanwhile need an environment each. The environment's first warming event
    runs its preparations, see `prepare`.

    Parameters
    ----------
    handler
        `handler(event, context) -> answer`, for all other events.
    """

    @functools.wraps(handler)
    def answer(event: dict[str, Any], context: Any) -> _Answer | dict[str, bool]:  # noqa: ANN401 - Lambda's object
        if not (isinstance(event, dict) and event.get(WARMING_KEY) == WARMING):
            return handler(event, context)
        _run_preparations()
        time.sleep(_hold_seconds(event.get("hold_ms")))
        return {"warm": True}

    return answer


def _hold_seconds(hold_ms: object) -> float:
    """Return how long to hold an event; what is not such a number is 0, for a warming event must not fail."""
    if isinstance(hold_ms, bool) or not isinstance(hold_ms, (int, float)) or not hold_ms > 0:
        return 0.0
    return min(hold_ms, MAX_HOLD_MS) / 1000


def prepare(function: _Function) -> _Function:
    """Run this function before the first request, where that makes no request wait.

    Such as one inference, which reads the model's pages into memory. It is done before a snapshot is taken, and in the
    first warming event. When a provisioned environment initializes, it is done at once: what the function uses must be
    there. In an environment made for a request it is not done at all. If it fails, that is logged: the function works
    without.

    Parameters
    ----------
    function
        Takes no arguments. It is returned as it is, so that this can decorate it.
    """
    _preparations.append(function)
    if _INITIALIZATION == "provisioned-concurrency":
        _run_preparations()
    return function


def before_snapshot(function: _Function) -> _Function:
    """Have this done before a snapshot is taken, after the preparations, such as closing connections.

    Decorates, or is called with, a function without arguments. A function that is registered later runs sooner. If it
    raises, the version cannot be published.
    """
    _before_snapshot.append(function)
    return function


def after_restore(function: _Function) -> _Function:
    """Have this done in every environment that begins with a snapshot: what must be its own is made there.

    Decorates, or is called with, a function without arguments. Functions run in the order of their registration, and
    have 10 seconds together. If it raises, the invocation fails, and is tried again.
    """
    _after_restore.append(function)
    return function


def begin_with_snapshot(wait_for_restore: Callable[[], object]) -> None:
    """Do between initialization and the first event what Lambda's own client does for a function with SnapStart.

    For a process that asks Lambda for events itself. Without SnapStart, nothing is done.

    Parameters
    ----------
    wait_for_restore
        Tells Lambda that the snapshot may be taken, and returns in an environment that begins with it.
    """
    if _INITIALIZATION != "snap-start":
        return
    import snapshot_restore_py  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - as below

    # Other packages may have hooks too. Those before the snapshot run in reverse, as Lambda documents.
    for function, arguments, named in reversed(snapshot_restore_py.get_before_snapshot()):
        function(*arguments, **named)
    wait_for_restore()
    for function, arguments, named in snapshot_restore_py.get_after_restore():
        function(*arguments, **named)


def _run_preparations() -> None:
    while _preparations:
        preparation = _preparations.pop(0)
        try:
            preparation()
        except Exception:
            # No error: a model may take nothing but sizes that it does not tell.
            _log.warning("a preparation failed, the first request is slower: %s", preparation, exc_info=True)


def _get_ready_for_snapshot() -> None:
    _run_preparations()
    for function in reversed(_before_snapshot):
        function()


def _begin_with_snapshot() -> None:
    _reseed()
    for function in _after_restore:
        function()


def _reseed() -> None:
    """Give the environment other random numbers: all that begin with one snapshot would draw the same.

    `secrets`, `uuid4` and `os.urandom` ask the kernel, and need nothing. A generator that other code made for itself
    stays as it is.
    """
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()


if _INITIALIZATION == "snap-start":
    # Part of Lambda's Python, and found nowhere else. One hook of each kind, so that their order is ours.
    import snapshot_restore_py  # type: ignore[import-not-found,unused-ignore]

    snapshot_restore_py.register_before_snapshot(_get_ready_for_snapshot)
    snapshot_restore_py.register_after_restore(_begin_with_snapshot)
