"""A drop of 200 photographs in the embedded AWS: what batches save in invocations, transitions and time."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT, Figure, Sample
from benchmarks.prepare import MODELS

if TYPE_CHECKING:
    from benchmarks.harness import Settings
    from cdk_inference.local import Cloud

APP = Path(__file__).parents[1] / "apps" / "batching.py"
PHOTOGRAPHS = ROOT / "model_assets" / "photographs"
COUNT = 200
LONGEST = 900.0
INVOKED = {"TaskScheduled", "LambdaFunctionScheduled"}
RIVAL = "the same with batches of one"


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    from cdk_inference.local import LocalCloud  # noqa: PLC0415 - no other subject needs an embedded AWS

    count = 8 if settings.quick else COUNT
    recipe = MODELS["lite0"][1]
    os.environ |= {"RECIPE": str(recipe), "LABELS": str(recipe.with_name("labels.txt"))}
    with LocalCloud() as cloud:
        cloud.deploy(ROOT, app=f"{sys.executable} {APP}")
        for name in ("Batched", "Single"):  # starts the processes of its functions, which then stay
            _drop(cloud, name, 8, "warm-up")
        batched, single = (_drop(cloud, name, count, "drop") for name in ("Batched", "Single"))
    what = f"{count} photographs dropped into a pipeline in the embedded AWS, batches of up to 32"
    return [
        Figure(
            f"batching/{kind}",
            f"{what}: {kind}",
            RIVAL,
            unit,
            Sample.of([batched[kind]]),
            Sample.of([single[kind]]),
            better,
            goal,
            {"photographs": count, "executions": {"batched": batched["executions"], "single": single["executions"]}},
        )
        for kind, unit, better, goal in (
            ("invocations", "", "fewer", 5.0),
            ("transitions", "", "fewer", 5.0),
            ("seconds", "s", "faster", 1.0),
        )
    ]


def _drop(cloud: Cloud, pipeline: str, count: int, prefix: str) -> dict[str, float]:
    """Drop photographs and wait for their rows; return the seconds that it took, and what the workflow did."""
    name = f"Batching/{pipeline}"
    target = cloud.pipeline(name)
    machine = state_machine(cloud, name)
    before = set(executions_of(cloud, machine))
    photographs = sorted(path for path in PHOTOGRAPHS.iterdir() if path.suffix in {".jpg", ".png"})
    chosen = [photographs[number % len(photographs)] for number in range(count)]
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        uploads = list(
            pool.map(
                lambda numbered: target.put(f"{prefix}/{numbered[0]}{numbered[1].suffix}", numbered[1].read_bytes()),
                enumerate(chosen),
            )
        )
    outcomes = target.wait_for(uploads, LONGEST)
    seconds = time.perf_counter() - began
    if failed := Counter(outcome.status for outcome in outcomes if outcome.status != "SUCCEEDED"):
        raise SystemExit(f"photographs failed: {dict(failed)}")
    executions = sorted(set(executions_of(cloud, machine)) - before)
    kinds = Counter(event["type"] for execution in executions for event in history_of(cloud, execution))
    return {
        "seconds": seconds,
        "executions": len(executions),
        "invocations": sum(found for kind, found in kinds.items() if kind in INVOKED),
        "transitions": sum(found for kind, found in kinds.items() if kind.endswith("StateEntered")),
    }


def state_machine(cloud: Cloud, pipeline: str) -> str:
    """Return the ARN of the state machine of a pipeline."""
    (found,) = (r.physical_id for r in cloud.resources(pipeline=pipeline, role="state-machine"))
    if found.startswith("arn:"):
        return found
    machines = cloud.client("stepfunctions").list_state_machines()["stateMachines"]
    return next(str(machine["stateMachineArn"]) for machine in machines if machine["name"] == found)


def executions_of(cloud: Cloud, machine: str) -> list[str]:
    """Return the executions: AWS keeps none of express workflows, the emulator does."""
    pages = cloud.client("stepfunctions").get_paginator("list_executions").paginate(stateMachineArn=machine)
    return [execution["executionArn"] for page in pages for execution in page["executions"]]


def history_of(cloud: Cloud, execution: str) -> list[dict[str, Any]]:
    """Return the events of an execution."""
    pages = cloud.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=execution)
    return [event for page in pages for event in page["events"]]
