"""Waits for a state of what runs elsewhere, on a machine that may be busy with other things."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which something hangs. Nothing here takes as long, not even on one core at a load of 8."""


def wait_until(
    condition: Callable[[], object],
    failure: Callable[[], object] = lambda: "the state was not reached",
    *,
    timeout: float = PATIENCE,
    every: float = 0.05,
) -> None:
    """Wait until a condition holds.

    Parameters
    ----------
    condition
        Called again and again until it returns something true.
    failure
        Says what the state is, for the report.
    timeout
        Seconds after which the test fails. It guards against a hang and is not an expectation.
    every
        Seconds between two calls.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:.0f} s: {failure()}")
        time.sleep(every)
