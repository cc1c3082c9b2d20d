"""A model that is loaded: latency of one item and throughput of batches, against onnxruntime's own Python API."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Figure, Sample, alternate
from benchmarks.prepare import CONTENDERS, MEMORY, MODELS, QUIET, interpreter, pip_installed, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.harness import Settings
    from benchmarks.prepare import Model

ROUNDS = 21
BATCHES = {"latency": 1, "throughput": 16}
SECONDS = 0.4
"""Seconds of one side in one round, about."""


class Steady:
    """A process with the model in it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - ours
            list(command), env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = np.array(self._read())
        self.runs = 1

    def calibrate(self, seconds: float) -> None:
        """Choose how many runs take about so long."""
        self._time(5)
        self.runs = max(3, int(seconds / (self._time(5) / 5)))

    def __call__(self) -> dict[str, float]:
        """Return the milliseconds of a run, the mean over a round."""
        return {"milliseconds": self._time(self.runs) / self.runs * 1000}

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _time(self, runs: int) -> float:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> float:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with {self._process.wait()}")
        return json.loads(line)


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    names = ["digits"] if settings.quick else list(MODELS)
    figures = []
    for key, model in prepare(names, settings.work).items():
        for kind, batch in BATCHES.items():
            ours, theirs = _contenders(model, batch, settings)
            if not np.allclose(ours.first, theirs.first, rtol=1e-3, atol=1e-3):
                raise SystemExit(f"{key}: the two sides answer differently")
            theirs.calibrate(0.05 if settings.quick else SECONDS)
            ours.runs = theirs.runs
            found = alternate({"ours": ours, "theirs": theirs}, settings.rounds(ROUNDS))
            ours.stop()
            theirs.stop()
            figures.append(
                Figure(
                    f"warm_{kind}/{key}",
                    f"{model.name}: warm {kind}, batch of {batch}, one thread",
                    "onnxruntime's own Python API, same model",
                    "ms",
                    Sample.of(found["ours"]["milliseconds"]),
                    Sample.of(found["theirs"]["milliseconds"]),
                    "faster",
                    # For the digits, a run takes microseconds, and the call itself counts.
                    None if (kind, key) == ("latency", "digits") else 0.97,
                    {"model": model.name, "batch": batch},
                )
            )
    return figures


def _contenders(model: Model, batch: int, settings: Settings) -> tuple[Steady, Steady]:
    script = [interpreter(), "-I", str(CONTENDERS / "steady.py")]
    end = ["--", str(model.event), str(batch)]
    threads = max(1, round(MEMORY / 1769))
    packages = pip_installed(settings.work, "onnxruntime")
    own = [*script, "ours", *map(str, model.function.folders), *end]
    other = [*script, "theirs", str(packages), str(model.artifact / "model.onnx"), str(threads), *end]
    return Steady(own, model.function.environment()), Steady(other, QUIET)
