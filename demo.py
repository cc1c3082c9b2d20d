"""Deploy the reference app to an embedded AWS, label real photographs, and say what came of it: `make demo`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.local import Outcome

HERE = Path(__file__).parent
PHOTOGRAPHS = HERE / "model_assets" / "photographs"

console = Console(highlight=False)


def main() -> int:
    """Run the demo; the exit code is that of `make demo`."""
    accepted: dict[str, list[str]] = json.loads((PHOTOGRAPHS / "accepted.json").read_text(encoding="utf-8"))
    began = time.monotonic()
    with LocalCloud() as cloud, Steps(console) as steps:
        cloud.deploy(HERE, on_line=steps.line, on_step=steps.begin)
        steps.begin(f"labelling {len(accepted)} photographs")
        outcomes = cloud.wait_for(cloud.put(*(PHOTOGRAPHS / name for name in accepted)))
        (function,) = [r for r in cloud.resources(role="function") if "model" in r.metadata]
        steps.begin("stopping the embedded AWS")
    wrong = [o.key for o in outcomes if o.status != "SUCCEEDED" or o.label not in accepted[o.key]]

    show_labels(outcomes, wrong)
    show_model(function.metadata["model"])
    console.print(f"\nIn all {time.monotonic() - began:.0f} s. Next:")
    console.print("  source .venv/bin/activate                      cdk synth, cdk diff and cdk deploy work as ever")
    console.print("  python -m cdk_inference.local deploy           keep it running; then put, results, logs, destroy")
    console.print("  app.py                                         the app; change it and deploy again")
    if wrong:
        console.print(f"\n[red]not labelled as expected: {', '.join(wrong)}")
    return 1 if wrong else 0


def show_labels(outcomes: Sequence[Outcome], wrong: Sequence[str]) -> None:
    """Print what the table of results says of each photograph."""
    table = Table("photograph", "label", "score", "model version", "upload to row")
    for outcome in outcomes:
        table.add_row(
            outcome.key,
            outcome.label or f"{outcome.status}: {outcome.reason}",
            "" if outcome.score is None else f"{outcome.score:.2f}",
            outcome.model_version,
            "" if outcome.seconds is None else f"{outcome.seconds:.2f} s",
            style="red" if outcome.key in wrong else None,
        )
    console.print(table)


def show_model(manifest: dict) -> None:
    """Print what the manifest says of the size and the accuracy of the model."""
    before, after, metric = manifest["baseline_size_bytes"], manifest["size_bytes"], manifest["metric"]
    console.print(
        f"{manifest['name']} {manifest['model_version']}, {manifest['precision']}: "
        f"{before / 1e6:.1f} MB as float32 → {after / 1e6:.1f} MB ({before / after:.1f} times smaller); "
        f"{metric['name']} with float32 {metric['quantized']:.1%}, at least {metric['gate']:.1%} required; "
        f"mean cosine of the outputs {manifest['parity']['quantized']}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LocalError as error:
        console.print(f"[red]error: {error}")
        sys.exit(1)
