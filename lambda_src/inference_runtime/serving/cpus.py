"""How many CPUs a container may use: its machine has more, and threads that wait for each other slow it down."""

from __future__ import annotations

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = _ROOT) -> int:
    """Return the CPUs of this process: those of its affinity, and at most those of its control group, rounded up.

    Parameters
    ----------
    cgroup
        Where the control group is mounted.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Return the CPUs that a control group of version 2 or 1 may use; None if it is not limited."""
    try:
        if (current := cgroup / "cpu.max").is_file():
            limit, period = current.read_text("ascii").split()
        else:
            limit, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period")
            )
        found = float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max"
        return None
    return found if found > 0 else None
