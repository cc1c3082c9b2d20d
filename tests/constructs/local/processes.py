"""The processes of this machine."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


def group(leader: int) -> list[str]:
    """Processes of a group."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [row[2] for row in rows if int(row[0]) == leader and not row[1].startswith("Z")]


def children(parent: int) -> list[int]:
    """Processes that a process has started and that live."""
    listed = subprocess.run(["ps", "-eo", "ppid=,stat=,pid="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(row[2]) for row in rows if int(row[0]) == parent and not row[1].startswith("Z")]


def commands() -> list[str]:
    """Command lines of all processes."""
    return subprocess.run(["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()


def gone(leader: int, state: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while group(leader) or state.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
