"""Deploy the example cascade to an embedded AWS, and show which model labels which photograph: `make demo-cascade`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cdk_inference.costs import CascadeOption, CpuOption, GpuOption, Traffic, estimate
from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.steps import Steps
from cdk_inference.model.records.lock import read_lock
from demos.photographs import console

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cdk_inference.costs.options import Option
    from cdk_inference.local import Outcome

ROOT = Path(__file__).parents[1]
APP = "python3 examples/cascade/app.py"
MODELS = ROOT / "model_assets" / "efficientnet_lite"
PHOTOGRAPHS = ROOT / "model_assets" / "photographs"

KNOWN_MISTAKES = {"rocket.jpg": "drilling platform"}
"""Lite2's own, 10 % sure: the larger model is not always the better one. The cascade promises to agree with it."""

TRAFFICS = {
    "1 M a month, in 30 bursts of 1 h": Traffic(items_per_month=1e6, bursts_per_month=30, burst_hours=1),
    "100 M, steady": Traffic(items_per_month=1e8),
    "1,000 M, steady": Traffic(items_per_month=1e9),
}
*_, BUSIEST = TRAFFICS.values()


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo; the exit code is that of `make demo-cascade`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gpu-milliseconds",
        type=float,
        default=1.0,
        help="of one photograph in lite2 on a GPU, for the costs: an assumption, nothing here measures it (default: 1)",
    )
    gpu_milliseconds = parser.parse_args(arguments).gpu_milliseconds

    accepted: dict[str, list[str]] = json.loads((PHOTOGRAPHS / "accepted.json").read_text(encoding="utf-8"))
    began = time.monotonic()
    with LocalCloud() as cloud, Steps(console, ("synthesizing", "deploying", "labelling", "stopping")) as steps:
        cloud.deploy(ROOT, app=APP, on_line=steps.line, on_step=steps.begin)
        steps.begin(f"labelling {len(accepted)} photographs")
        uploads = cloud.put(*(PHOTOGRAPHS / name for name in accepted))
        outcomes = cloud.wait_for(uploads, on_line=steps.line, on_failure=steps.tell)
        (machine,) = cloud.resources(role="state-machine")
        (calibration,) = machine.metadata["cascades"]
        steps.begin("stopping the embedded AWS")
    wrong = [outcome.key for outcome in outcomes if not expected(outcome, accepted[outcome.key])]

    show_answers(outcomes, calibration["threshold"], wrong)
    show_escalations(outcomes, calibration)
    show_costs(calibration["expected_escalation_rate"], gpu_milliseconds)
    console.print(f"\nIn all {time.monotonic() - began:.0f} s.")
    if wrong:
        console.print(f"\n[red]not labelled as expected: {', '.join(wrong)}")
    return 1 if wrong else 0


def expected(outcome: Outcome, accepted: Sequence[str]) -> bool:
    """Tell whether a photograph has a label that a person accepts, or the mistake that is known."""
    labelled = outcome.status == "SUCCEEDED" and outcome.label is not None
    return labelled and outcome.label in (*accepted, KNOWN_MISTAKES.get(outcome.key))


def show_answers(outcomes: Sequence[Outcome], threshold: float, wrong: Sequence[str]) -> None:
    """Print both models' answers, which of them counts, and why."""
    table = Table("photograph", "lite0", "lite2", "counts, and why", "ran on")
    for outcome in outcomes:
        row = outcome.row or {}
        if outcome.status != "SUCCEEDED":
            answers = (f"{outcome.status}: {outcome.reason}", "", "", "")
        elif (first := row.get("first")) is None:
            why = f"{row['route']}: {row['confidence']:.2f} >= {threshold:.2f}"
            answers = (answer(row), "not asked", why, row["inference"])
        else:
            why = f"{row['route']}: {first['confidence']:.2f} < {threshold:.2f}"
            answers = (answer(first), answer(row), why, f"{first['inference']}, {row['inference']}")
        known = outcome.label is not None and outcome.label == KNOWN_MISTAKES.get(outcome.key)
        table.add_row(outcome.key, *answers, style="red" if outcome.key in wrong else "yellow" if known else None)
    console.print(table)
    console.print(
        "lite2 is made for a GPU. The embedded AWS has none: its function ran on the CPU, and its rows say so. "
        f"What lite2 says of {', '.join(KNOWN_MISTAKES)} is a known mistake: to agree with the large model is not to "
        "be right."
    )


def answer(row: Mapping[str, Any]) -> str:
    """Return what a model said, and how sure it was."""
    prediction = row["prediction"]
    return f"{prediction['label']} {prediction['score']:.2f}"


def show_escalations(outcomes: Sequence[Outcome], calibration: Mapping[str, Any]) -> None:
    """Print the share that was escalated, and what the calibration expects."""
    escalated = sum("first" in (outcome.row or {}) for outcome in outcomes)
    console.print(
        f"\nEscalated: {escalated} of {len(outcomes)} here ({escalated / len(outcomes):.0%}). The calibration expects "
        f"{calibration['expected_escalation_rate']:.1%}: {calibration['threshold']:.2f} is the lowest threshold with "
        f"which the cascade agrees with lite2 on {calibration['target_agreement']:.0%} of {calibration['samples']} "
        f"samples. There it agrees on {calibration['expected_agreement']:.1%}, and lite0 alone on "
        f"{calibration['first_agreement']:.1%}; on new data like these, with about 95% confidence, on at least "
        f"{calibration['agreement_lower_bound']:.1%}, if the samples were independent. They are crops of "
        f"{calibration['descriptions']} photographs, these among them.\n"
    )


def show_costs(escalation: float, gpu_milliseconds: float) -> None:
    """Print what a million photographs cost in several ways, and from where on a cascade pays."""
    lite0, lite2 = (CpuOption(name, milliseconds=latency(name)) for name in ("lite0", "lite2"))
    gpu = GpuOption("lite2", milliseconds=gpu_milliseconds)

    def cascade(then: CpuOption | GpuOption) -> CascadeOption:
        return CascadeOption("cascade", first=lite0, then=then, escalation=escalation)

    table = Table("USD for a million", *TRAFFICS)
    for name, way in {
        "lite0 on CPU": lite0,
        "lite2 on CPU": lite2,
        "lite2 on GPU (assumed)": gpu,
        "cascade, lite2 on GPU (assumed)": cascade(gpu),
        "cascade, lite2 on CPU": cascade(lite2),
    }.items():
        table.add_row(name, *(f"{usd(way, traffic):,.2f}" for traffic in TRAFFICS.values()))
    console.print(table)

    def heavier_cpu(milliseconds: float) -> CpuOption:
        return CpuOption("heavier", milliseconds=milliseconds)

    def heavier_gpu(milliseconds: float) -> GpuOption:
        return GpuOption("heavier", milliseconds=milliseconds)

    on_cpu = least(lambda ms: usd(cascade(heavier_cpu(ms))) < usd(heavier_cpu(ms)))
    on_gpu = least(lambda ms: usd(cascade(heavier_gpu(ms))) < usd(heavier_gpu(ms)))
    moved = least(lambda ms: usd(cascade(gpu)) < usd(heavier_cpu(ms)))
    console.print(
        "Estimated from list prices for full batches; no bill was seen. On the CPU one photograph takes "
        f"{lite0.milliseconds:.1f} and {lite2.milliseconds:.1f} ms, measured when the locks of lite0 and of lite2 in "
        f"int8 were made. On a GPU it is ASSUMED to take {gpu_milliseconds:g} ms, which nobody measured: "
        "--gpu-milliseconds changes it.\n\n"
        f"A cascade of these two costs {than(usd(cascade(lite2)), usd(lite2))} than lite2 alone on the CPU, and "
        f"{than(usd(cascade(gpu)), usd(gpu))} on a GPU. What is escalated is read, preprocessed and handed on twice: "
        f"that takes a heavy second model. With {escalation:.0%} escalated and the largest volume above, it pays from "
        f"{on_cpu:,.0f} ms on the CPU or {on_gpu:,.1f} ms on a GPU on. A cascade with the GPU assumed above costs less "
        f"than a model alone on the CPU that takes more than {moved:,.0f} ms."
    )


def usd(option: Option, traffic: Traffic = BUSIEST) -> float:
    """Return what a million photographs cost."""
    return estimate(option, traffic).usd_per_month / traffic.items_per_month * 1e6


def than(one: float, other: float) -> str:
    """Return how one price compares with another."""
    return f"{abs(one / other - 1):.0%} {'more' if one > other else 'less'}"


def latency(name: str) -> float:
    """Return the milliseconds of one photograph on one thread, as the model's lock has them."""
    lock = read_lock(MODELS / f"efficientnet-{name}.arm64.lock.json")
    if lock is None:
        raise LocalError(f"there is no lock of {name}")
    return lock.measured.deployed_ms


def least(pays: Callable[[float], bool]) -> float:
    """Return the fewest milliseconds with which something pays."""
    low, high = 0.001, 100_000.0
    while high / low > 1.001:  # noqa: PLR2004
        middle = (low * high) ** 0.5
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LocalError as error:
        console.print(f"[red]error: {error}")
        sys.exit(1)
