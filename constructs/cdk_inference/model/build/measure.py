"""Latency and memory of a model on the deployed runtime."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.build.evaluate import start
from cdk_inference.model.build.session import open_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime as ort

    from cdk_inference.model.build.data import Batch
    from cdk_inference.model.tensors import TensorSpec

PAIRS = 15
SECONDS = 1.0
"""At least so many runs of each model, and for at least so long."""

MAX_SECONDS = 8.0
MIN_PAIRS = 3
MAX_PAIRS = 400
"""A slow model runs fewer times, and a tiny one no more than this."""

ROUNDS = 5
MAX_THREADS = 6
"""More than the vCPUs of the largest Lambda function are of no use."""

CLOSE = 0.1
"""A ratio this close to 1 is measured three times as long."""


def typical_sample(batches: Sequence[Batch], inputs: Sequence[TensorSpec]) -> Batch:
    """Return one sample of the middling size; a whole batch if the model takes no other."""
    ordered = sorted(batches, key=lambda batch: sum(array.size // len(array) for array in batch.values()))
    batch = ordered[len(ordered) // 2]
    single = all(isinstance(spec.shape[0], str) for spec in inputs)
    return {name: np.ascontiguousarray(array[:1]) for name, array in batch.items()} if single else batch


def latency(float32: bytes, candidate: bytes, sample: Batch) -> tuple[float, float, float]:
    """Return milliseconds a sample of both models on one thread, and how much quicker the candidate is.

    They run alternately, so that both meet the same machine, each time after a run that is not counted: a deployed
    function has no other model that takes the caches. The gain is the median over the pairs of runs.
    """
    sessions = (start(float32, "float32", exact=False), start(candidate, "the candidate", exact=False))
    pairs = _pairs(sessions, sample, PAIRS, SECONDS)
    if abs(_gain(pairs) - 1.0) < CLOSE:
        pairs += _pairs(sessions, sample, 2 * PAIRS, 2 * SECONDS)
    count = len(next(iter(sample.values())))  # more than one if the model takes no other
    one, two = (statistics.median(times) / count for times in zip(*pairs, strict=True))
    return round(one, 3), round(two, 3), float(f"{_gain(pairs):.3g}")


def curve(model: Path, sample: Batch) -> dict[str, float]:
    """Return the median latency of one sample, in milliseconds, by number of threads, as many as there are cores.

    The numbers of threads take turns, and the least disturbed turn of each counts. There is one session at a time:
    the threads of another would wait for work in a loop, and take a core.

    Parameters
    ----------
    model
        The deployed model; its weights may lie beside it.
    sample
        What it runs.
    """
    count = len(next(iter(sample.values())))
    runs: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for threads in range(1, min(os.cpu_count() or 1, MAX_THREADS) + 1):
            session = open_file(model, threads)
            runs.setdefault(str(threads), []).append(_steady(session, sample) / count)
            del session
    return {threads: round(min(times), 3) for threads, times in runs.items()}


def _steady(session: ort.InferenceSession, sample: Batch) -> float:
    """Return the median of several runs, after one that is not counted."""
    times = [_settled(session, sample)]
    began = time.perf_counter()
    while len(times) < MAX_PAIRS and time.perf_counter() - began < SECONDS / ROUNDS:
        times.append(_run(session, sample))
    return statistics.median(times)


def _gain(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(one / two for one, two in pairs)


def _pairs(
    sessions: tuple[ort.InferenceSession, ort.InferenceSession], sample: Batch, least: int, seconds: float
) -> list[tuple[float, float]]:
    pairs: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(pairs) < MAX_PAIRS:
        passed = time.perf_counter() - began
        if (len(pairs) >= least and passed > seconds) or (len(pairs) >= MIN_PAIRS and passed > MAX_SECONDS):
            break
        one, two = (_settled(session, sample) for session in sessions)
        pairs.append((one, two))
    return pairs


def _settled(session: ort.InferenceSession, sample: Batch) -> float:
    _run(session, sample)
    return _run(session, sample)


def _run(session: ort.InferenceSession, sample: Batch) -> float:
    began = time.perf_counter()
    session.run(None, sample)
    return (time.perf_counter() - began) * 1000


def peak_memory(model: Path, sample: Batch, work: Path) -> float:
    """Return the peak memory of a fresh process that loads a model and runs one sample, in millions of bytes."""
    inputs = work / "sample.npz"
    np.savez(inputs, *sample.values())
    (work / "names.json").write_text(json.dumps(list(sample)), "utf-8")
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "cdk_inference.model.build.memory", str(model), str(work)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise ModelBuildError(f"a process of its own cannot run the model: it ended with {error.returncode}") from error
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
