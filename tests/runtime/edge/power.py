"""Cuts the power of a process before a step that changes the disk."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITES = os.O_WRONLY | os.O_RDWR
_STEPS = frozenset({"edge.commit", "os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "subprocess.Popen"})


def ended_at(step: int, work: Callable[[], object]) -> bool:
    """Do some work in a process whose power fails before it changes the disk so many times; return whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _STEPS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            count += 1
            if count > step:
                os._exit(9)

    sys.addaudithook(before)
    try:
        work()
    finally:
        os._exit(0)
