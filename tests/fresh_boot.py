"""Processes that believe the machine was booted a moment ago, whose clocks are near their zero."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

BOOTED = 100  # seconds ago
_OFFSETS = Path("/proc/self/timens_offsets")
_CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": 7}
_CLONE_NEWTIME = 0x80


def offsets() -> dict[str, int]:
    """Return the seconds by which each clock must differ from the machine's own."""
    # The kernel counts from the first namespace, and this process may be in another.
    own = {}
    if _OFFSETS.exists():
        own = {line.split()[0]: int(line.split()[1]) for line in _OFFSETS.read_text().splitlines()}
    return {name: own.get(name, 0) + min(0, BOOTED - int(time.clock_gettime(clock))) for name, clock in _CLOCKS.items()}


def pretend() -> None:
    """Let the processes that this one starts from now on believe it, where the machine allows that."""
    if os.geteuid() != 0 or not _OFFSETS.exists():
        return
    wanted = "".join(f"{name} {seconds} 0\n" for name, seconds in offsets().items())
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWTIME) == 0:
        _OFFSETS.write_text(wanted)
