"""Fresh processes: from their start to the first prediction."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.prepare import QUIET, first_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Fresh:
    """A command that is started anew for each measurement.

    Parameters
    ----------
    command
        One of `contenders`.
    environment
        Variables of the process. Default: `QUIET`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._environment = dict(environment if environment is not None else QUIET)
        self.answer: dict[str, Any] = {}

    def __call__(self) -> dict[str, float]:
        """Run it, and return the milliseconds to its first prediction and the most memory that it had, in MB."""
        began = time.perf_counter()  # the same clock in all processes
        done = subprocess.run(  # noqa: S603 - ours
            self._command, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(self._command)} failed:\n{done.stdout}{done.stderr}")
        # Functions log to standard output, too.
        self.answer = json.loads(done.stdout.splitlines()[-1])
        return {
            "milliseconds": (self.answer["finished"] - began) * 1000,
            "peak_mb": self.answer["peak_kib"] * 1024 / 1e6,
        }

    @property
    def prediction(self) -> np.ndarray[Any, Any]:
        """The first output of the last run."""
        if "first" in self.answer:
            return np.array(self.answer["first"])
        return first_output(self.answer["outputs"])


def check_same(one: Fresh, other: Fresh, *, least: float) -> float:
    """Return the cosine of two predictions; contenders that answer differently do different work.

    Raises
    ------
    SystemExit
        If it is below the least.
    """
    a, b = one.prediction, other.prediction
    cosine = float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    if not cosine >= least:
        raise SystemExit(f"two contenders answered differently: cosine {cosine:.4f}, expected {least} at least")
    return cosine
