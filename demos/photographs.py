"""Deploy the reference app to an embedded AWS, label real photographs, and show what came of it: `make demo`."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cdk_inference import LambdaPlatform
from cdk_inference.common.figures import size
from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.console.server import Console as Page
from cdk_inference.local.steps import Steps
from cdk_inference.model import build_model
from demos.page import Labelled, Run, render, stage_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.local import Cloud, Outcome
    from cdk_inference.model.records.manifest import Manifest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "model_assets" / "efficientnet_lite" / "lite0.py"
PHOTOGRAPHS = ROOT / "model_assets" / "photographs"
PAGE = ROOT / ".demo" / "photographs.html"

PLAN = ("synthesizing", "deploying", "labelling", "stopping")

console = Console(highlight=False)


def main(*, stay: bool = False) -> int:
    """Run the demo, and return the exit code of `make demo`.

    Parameters
    ----------
    stay
        Whether to leave the embedded AWS running, with its console, until Ctrl-C.
    """
    accepted: dict[str, list[str]] = json.loads((PHOTOGRAPHS / "accepted.json").read_text(encoding="utf-8"))
    began = time.monotonic()
    with ExitStack() as running:
        cloud = running.enter_context(LocalCloud())
        with Steps(console, PLAN[:-1] if stay else PLAN) as steps:
            cloud.deploy(ROOT, on_line=steps.line, on_step=steps.begin)
            pictures = sum((PHOTOGRAPHS / name).stat().st_size for name in accepted)
            steps.begin(f"labelling {len(accepted)} photographs, {size(pictures)}")
            uploads = cloud.put(*(PHOTOGRAPHS / name for name in accepted))
            outcomes = cloud.wait_for(uploads, on_line=steps.line, on_failure=steps.tell)
            stages = stage_times(cloud)
            if not stay:
                steps.begin("stopping the embedded AWS")
                running.close()
        photographs = [Labelled(one, accepted[one.key], PHOTOGRAPHS / one.key) for one in outcomes]
        wrong = [one.outcome.key for one in photographs if not one.fits]

        show_labels(outcomes, wrong)
        # From the cache: the synth above built it for this machine's processor.
        built = build_model(RECIPE, architecture=LambdaPlatform.host().architecture)
        show_model(built.manifest)
        render(Run(photographs, built.manifest, built.card, steps.seconds, stages), PAGE)
        console.print(f"\nIn all {time.monotonic() - began:.0f} s. Next:")
        if not stay:
            console.print("  make demo CONSOLE=1                   leaves it running, with a page to upload and watch")
        console.print("  source .venv/bin/activate             then cdk synth, cdk diff, cdk deploy work")
        console.print("  python -m cdk_inference.local deploy  keeps it running; --help for more")
        console.print("  app.py                                is the app: change it, and deploy again")
        console.print(f"The photographs and their labels: {PAGE}", markup=False, soft_wrap=True)
        if wrong:
            console.print(f"\n[red]not labelled as expected: {escape(', '.join(wrong))}")
        if stay:
            show_console(cloud)
    return 1 if wrong else 0


def show_console(cloud: Cloud) -> None:
    """Serve the console of the embedded AWS until Ctrl-C."""
    with Page(lambda: cloud) as page, suppress(KeyboardInterrupt):
        console.print(f"\nThe console, until you press Ctrl-C: {page.url}", markup=False, soft_wrap=True)
        threading.Event().wait()


def show_labels(outcomes: Sequence[Outcome], wrong: Sequence[str]) -> None:
    """Print what the table of results says of each photograph."""
    table = Table("photograph", "label", "score", "model version", "upload to row")
    for outcome in outcomes:
        table.add_row(
            escape(outcome.key),
            escape(outcome.label or f"{outcome.status}: {outcome.reason}"),
            "" if outcome.score is None else f"{outcome.score:.2f}",
            outcome.model_version,
            "" if outcome.seconds is None else f"{outcome.seconds:.2f} s",
            style="red" if outcome.key in wrong else None,
        )
    console.print(table)


def show_model(manifest: Manifest) -> None:
    """Print the size, the accuracy and the speed of the model against the float one it comes from."""
    before, after, metric, measured = (
        manifest.baseline_size_bytes,
        manifest.size_bytes,
        manifest.metric,
        manifest.measured,
    )
    table = Table(f"{manifest.name} {manifest.model_version}", "float32", manifest.precision, "")
    table.add_row("size", f"{before / 1e6:.1f} MB", f"{after / 1e6:.1f} MB", f"{before / after:.1f} times smaller")
    if measured is not None:  # by the search that wrote the lock
        table.add_row(
            "one sample on one thread",
            f"{measured.float32_ms:.1f} ms",
            f"{measured.deployed_ms:.1f} ms",
            f"{measured.speedup:.1f} times faster",
        )
    if metric is not None:
        gate = f"gate: {metric.gate:.1%}"
        table.add_row(metric.name, "", f"{metric.quantized:.1%}", gate)
    table.add_row("cosine of the outputs", "", f"{manifest.parity['quantized']:.3f}", "")
    table.add_row("the same answers on", "", " and ".join(manifest.exact_on), "")
    console.print(table)


if __name__ == "__main__":
    try:
        sys.exit(main(stay="--console" in sys.argv[1:]))
    except LocalError as error:
        console.print(f"[red]error: {escape(str(error))}")
        sys.exit(1)
