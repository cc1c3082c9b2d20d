"""Compares a simulation with the embedded AWS: `python -m benchmarks.simulation`.

Photographs are dropped into the staged pipeline of the batching benchmark. The histories of the workflows of a first
drop say how long each function takes for a photograph, and how much the workflow adds. A simulation with these figures
predicts a second, larger drop, until all of its rows exist. Both should agree within a factor of 2: the functions share
the cores of this machine, which the simulation does not know.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT
from benchmarks.prepare import MODELS
from benchmarks.subjects.batching import APP, PHOTOGRAPHS, executions_of, history_of, state_machine
from cdk_inference.costs import CpuOption, PipelineShape
from cdk_inference.costs.quantities import VCPU_MIB
from cdk_inference.local import LocalCloud
from cdk_inference.simulation import Arrivals, Assumptions, Quotas, simulate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.local import Cloud

PIPELINE = "Batching/Batched"
FIRST, SECOND = 64, 200
SEEDS = 20
TOLERANCE = 2.0

_LONGEST = 900.0
_WINDOW = 1.0
_BATCHES_AT_A_TIME = max(2, min(5, os.cpu_count() or 1))  # of the embedded AWS's pipe
_STAGES = ("Preprocess", "Infer", "Postprocess")


@dataclass(frozen=True)
class Drop:
    """Photographs that were dropped together.

    Parameters
    ----------
    count
        How many.
    upload, makespan
        Seconds until the last one was uploaded, and until all had rows.
    wait
        Seconds from the first upload to the first execution.
    item_ms
        Milliseconds of each stage for a photograph.
    step_ms
        Milliseconds that the workflow adds to each invocation.
    """

    count: int
    upload: float
    makespan: float
    wait: float
    item_ms: Mapping[str, float]
    step_ms: float


def drop(cloud: Cloud, count: int, prefix: str) -> Drop:
    """Drop photographs, wait for their rows, and read how long each stage took."""
    target, machine = cloud.pipeline(PIPELINE), state_machine(cloud, PIPELINE)
    before = set(executions_of(cloud, machine))
    photographs = sorted(path for path in PHOTOGRAPHS.iterdir() if path.suffix in {".jpg", ".png"})
    chosen = [photographs[number % len(photographs)] for number in range(count)]
    at, began = time.time(), time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        uploads = list(
            pool.map(
                lambda one: target.put(f"{prefix}/{one[0]}{one[1].suffix}", one[1].read_bytes()), enumerate(chosen)
            )
        )
    uploaded = time.perf_counter() - began
    target.wait_for(uploads, _LONGEST)
    makespan = time.perf_counter() - began
    histories = [history_of(cloud, each) for each in set(executions_of(cloud, machine)) - before]
    stages = [_stages(history) for history in histories]
    item_ms = {name: 1000 * sum(found.get(name, 0.0) for found in stages) / count for name in _STAGES}
    spans = [_seconds(history[-1]) - _seconds(history[0]) for history in histories]
    added = sum(spans) - sum(sum(found.values()) for found in stages)
    return Drop(
        count,
        uploaded,
        makespan,
        max(0.0, min(_seconds(history[0]) for history in histories) - at),
        item_ms,
        1000 * max(0.0, added) / (len(_STAGES) * len(histories)),
    )


def _stages(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of each stage's task states in an execution."""
    entered: dict[str, float] = {}
    found: dict[str, float] = {}
    for event in history:
        if event["type"] == "TaskStateEntered":
            entered[event["stateEnteredEventDetails"]["name"]] = _seconds(event)
        elif event["type"] == "TaskStateExited":
            name = event["stateExitedEventDetails"]["name"]
            stage = next((stage for stage in _STAGES if stage in name), None)
            if stage is not None:
                found[stage] = found.get(stage, 0.0) + _seconds(event) - entered[name]
    return found


def _seconds(event: dict[str, Any]) -> float:
    return float(event["timestamp"].timestamp())


def predict(first: Drop, count: int, upload: float) -> float:
    """Return the seconds until all rows of a drop exist, on average over some seeds, from the figures of another."""
    ms = first.item_ms
    shape = PipelineShape(
        preprocess_ms=ms["Preprocess"],
        postprocess_ms=ms["Postprocess"],
        preprocess_memory=VCPU_MIB,
        postprocess_memory=VCPU_MIB,
    )
    limits = Quotas(pipe_batches_at_first=_BATCHES_AT_A_TIME, pipe_batches=_BATCHES_AT_A_TIME)
    assumptions = Assumptions(
        max_batching_window=_WINDOW,
        event_ms=1000 * max(0.0, first.wait - _WINDOW),
        step_ms=first.step_ms,
        cold_start_ms=0,
    )
    found = [
        simulate(
            CpuOption("lite0", milliseconds=ms["Infer"]),
            Arrivals.constant(count / upload, seconds=upload),
            shape=shape,
            quotas=limits,
            assumptions=assumptions,
            warm_up=0,
            seed=seed,
        )
        for seed in range(SEEDS)
    ]
    return statistics.mean(result.ended_at for result in found)


def main() -> None:
    """Deploy the app, drop twice, and compare."""
    recipe = MODELS["lite0"][1]
    os.environ |= {"RECIPE": str(recipe), "LABELS": str(recipe.with_name("labels.txt"))}
    with LocalCloud() as cloud:
        cloud.deploy(ROOT, app=f"{sys.executable} {APP}")
        drop(cloud, 8, "warm-up")  # starts the processes of its functions, which then stay
        first, second = drop(cloud, FIRST, "first"), drop(cloud, SECOND, "second")
    figures = ", ".join(f"{name} {ms:.1f} ms" for name, ms in first.item_ms.items())
    sys.stdout.write(f"each photograph: {figures}; the workflow adds {first.step_ms:.0f} ms to an invocation\n")
    off = 1.0
    for each in (first, second):
        predicted = predict(first, each.count, each.upload)
        ratio = predicted / each.makespan
        off = max(off, ratio, 1 / ratio)
        sys.stdout.write(
            f"{each.count} photographs, uploaded in {each.upload:.1f} s: measured {each.makespan:.1f} s, predicted "
            f"{predicted:.1f} s, {ratio:.2f} of it\n"
        )
    if off > TOLERANCE:
        raise SystemExit(f"error: the prediction is off by a factor of {off:.2f}, and {TOLERANCE:g} is allowed")


if __name__ == "__main__":
    main()
