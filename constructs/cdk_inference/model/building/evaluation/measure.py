"""Latency and memory of a model on the deployed runtime."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.evaluate import start
from cdk_inference.model.building.evaluation.opening import open_file
from cdk_inference.model.process import ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.model.building.evaluation.data import Batch
    from cdk_inference.model.building.evaluation.session import Opened
    from cdk_inference.model.files.weights import Model
    from cdk_inference.model.recipe.tensors import TensorSpec

_MEMORY = "cdk_inference.model.building.evaluation.memory"

ROUND_SECONDS = 0.2
MIN_PAIRS, MAX_PAIRS = 3, 100
"""A round of alternated runs takes this long, with at least and at most this many pairs."""

MIN_ROUNDS, MAX_ROUNDS = 8, 40
FEWEST_ROUNDS, MAX_SECONDS = 5, 12.0
"""Rounds are repeated until the ratio is clear, at most `MAX_ROUNDS` times and, from the fifth on, no longer than this.

Chance alone puts all of five rounds below 1 in 3 % of the searches.
"""

CONFIDENCE = 0.99
"""The search looks after each round, so that chance has many occasions."""

TIE = 0.1
"""Speeds beyond that of float32 that differ by less than this share are equal: size decides among them."""

RESOLUTION = 0.01
"""A model that seems to be slower by less than this share is not: the same file differed by 0.2 % from itself."""

ROUNDS = 5
MAX_THREADS = 6
"""More than the vCPUs of the largest Lambda function are of no use."""

_LONG_ROUND = 1.0  # seconds, after which one pair is enough


@dataclass(frozen=True)
class Timing:
    """How fast a model is, next to float32.

    Parameters
    ----------
    float32_ms, ms
        Median milliseconds of a sample on one thread, of float32 and of this model.
    speedup
        How much faster this model is: the median over rounds of alternated runs.
    low, high
        Between these, the speedup lies with `CONFIDENCE`; with less after fewer than `MIN_ROUNDS`.
    rounds
        How many rounds there were.
    """

    float32_ms: float
    ms: float
    speedup: float
    low: float
    high: float
    rounds: int = MIN_ROUNDS

    @property
    def clear(self) -> bool:
        """Whether it is known if the model is slower than float32, as fast, or faster by more than `TIE`."""
        return is_clear(self.low, self.high) and not self._slow <= self.high < 1.0

    @property
    def slower(self) -> bool:
        """Whether the model is slower than float32, whatever the noise."""
        return self.high < self._slow and self.speedup < 1.0 - RESOLUTION

    @property
    def _slow(self) -> float:
        """The bounds of a slower model lie below this: chance alone puts all of few rounds below 1 now and then."""
        return 1.0 if self.rounds >= MIN_ROUNDS else 1.0 / (1.0 + TIE)


def typical_sample(batches: Sequence[Batch], inputs: Sequence[TensorSpec]) -> Batch:
    """Return one sample of the middling size; a whole batch if the model takes no other."""
    ordered = sorted(batches, key=lambda batch: sum(array.size // len(array) for array in batch.values()))
    batch = ordered[len(ordered) // 2]
    single = all(isinstance(spec.shape[0], str) for spec in inputs)
    return {name: np.ascontiguousarray(array[:1]) for name, array in batch.items()} if single else batch


def latency(float32: Model, candidate: Model, sample: Batch, *, rounds: int = MAX_ROUNDS) -> Timing:
    """Return how fast both models are on one thread.

    They run alternately, so that both meet the same machine, each time after a run that is not counted. A deployed
    function has no other model that takes the caches. Each round opens both models anew, since where their weights come
    to lie decides too. Every other round begins with the candidate, since the second of two is a little faster. Rounds
    are repeated until the ratio is clear, or a bound is reached.

    Parameters
    ----------
    float32, candidate
        The models.
    sample
        The sample that they run.
    rounds
        At most this many.
    """
    times: list[tuple[float, float]] = []
    gains: list[float] = []
    began = time.perf_counter()
    while not _is_enough(gains, time.perf_counter() - began, rounds):
        pairs = _round(float32, candidate, sample, swapped=len(gains) % 2 == 1)
        gains.append(statistics.median(one / two for one, two in pairs))
        times += pairs
    count = len(next(iter(sample.values())))  # more than one if the model takes no other
    one, two = (statistics.median(each) / count for each in zip(*times, strict=True))
    speedup, low, high = (float(f"{g:.3g}") for g in (statistics.median(gains), *interval(gains)))
    return Timing(round(one, 3), round(two, 3), speedup, low, high, len(gains))


def alone(model: Model, sample: Batch) -> float:
    """Return the median milliseconds of a sample on one thread, of one model."""
    session = start(model, "the model", exact=False)
    return round(_steady(session, sample) / len(next(iter(sample.values()))), 3)


def interval(gains: Sequence[float]) -> tuple[float, float]:
    """Return the bounds of the median, with `CONFIDENCE`, whatever the distribution; the extremes of a few values.

    How many values lie below the median is binomial: David and Nagaraja, Order Statistics, 3rd edition, section 7.1.
    """
    ordered, count = sorted(gains), len(gains)
    outside, cut = 0, 0
    for below in range(count // 2):
        outside += 2 * math.comb(count, below)
        if outside > (1.0 - CONFIDENCE) * 2**count:
            break
        cut = below
    return ordered[cut], ordered[-1 - cut]


def is_clear(low: float, high: float) -> bool:
    """Tell whether bounds of a speedup leave no doubt whether it is slower, as fast, or faster by more than `TIE`."""
    return high < 1.0 or (low > 1.0 - RESOLUTION and not low < 1.0 + TIE < high)


def _is_enough(gains: Sequence[float], seconds: float, rounds: int) -> bool:
    if len(gains) >= rounds or (len(gains) >= FEWEST_ROUNDS and seconds > MAX_SECONDS):
        return True
    return len(gains) >= MIN_ROUNDS and is_clear(*interval(gains))


def curve(model: Path, sample: Batch) -> dict[str, float]:
    """Return the median latency of one sample, in milliseconds, by number of threads, as many as there are cores.

    The numbers of threads take turns, and the least disturbed turn of each counts. There is one session at a time:
    the threads of another would wait for work in a loop, and take a core.

    Parameters
    ----------
    model
        The deployed model; its weights may lie next to it.
    sample
        The sample that it runs.
    """
    count = len(next(iter(sample.values())))
    runs: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for threads in range(1, min(os.cpu_count() or 1, MAX_THREADS) + 1):
            session = open_file(model, threads)
            runs.setdefault(str(threads), []).append(_steady(session, sample) / count)
            del session
    return {threads: round(min(times), 3) for threads, times in runs.items()}


def _steady(session: Opened, sample: Batch) -> float:
    """Return the median of several runs, after one that is not counted."""
    times = [_settled(session, sample)]
    began = time.perf_counter()
    while len(times) < MAX_PAIRS and time.perf_counter() - began < ROUND_SECONDS:
        times.append(_run(session, sample))
    return statistics.median(times)


def _round(float32: Model, candidate: Model, sample: Batch, *, swapped: bool) -> list[tuple[float, float]]:
    """Return milliseconds of both models, opened for this round alone; the candidate is first if they are swapped."""
    # Both are closed before the next round: those of a large model would not fit twice.
    if swapped:
        sessions = (start(candidate, "the candidate", exact=False), start(float32, "float32", exact=False))
        return [(one, two) for two, one in _pairs(sessions, sample)]
    return _pairs((start(float32, "float32", exact=False), start(candidate, "the candidate", exact=False)), sample)


def _pairs(sessions: tuple[Opened, Opened], sample: Batch) -> list[tuple[float, float]]:
    pairs: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(pairs) < MAX_PAIRS:
        passed = time.perf_counter() - began
        if (len(pairs) >= MIN_PAIRS and passed > ROUND_SECONDS) or (pairs and passed > _LONG_ROUND):
            break
        one, two = (_settled(session, sample) for session in sessions)
        pairs.append((one, two))
    return pairs


def _settled(session: Opened, sample: Batch) -> float:
    _run(session, sample)
    return _run(session, sample)


def _run(session: Opened, sample: Batch) -> float:
    began = time.perf_counter()
    session.run(None, sample)
    return (time.perf_counter() - began) * 1000


def peak_memory(model: Path, sample: Batch, work: Path, threads: int = 1) -> float:
    """Return the peak memory of a fresh process that loads a model and runs one sample, in millions of bytes.

    Raises
    ------
    ModelBuildError
        If the process ends with an error, or by a signal: onnxruntime has crashed on some models with two threads.
    """
    inputs = work / "sample.npz"
    np.savez(inputs, *sample.values())
    (work / "names.json").write_text(json.dumps(list(sample)), "utf-8")
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", _MEMORY, str(model), str(work), str(threads)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise ModelBuildError(
            f"onnxruntime {ort.__version__} cannot run the model with {threads} threads: the process "
            f"{ending(error.returncode)}"
        ) from error
    finally:
        inputs.unlink()
        (work / "names.json").unlink()
    return float(done.stdout)


def host() -> list[object]:
    """Return what tells machines apart whose measurements do not compare."""
    return [platform.node(), cpu(), os.cpu_count()]


def cpu() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
