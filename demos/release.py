"""Release a bad model in an embedded AWS, and watch how it is rolled back: `make demo-release`."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.steps import Steps
from cdk_inference.releases.deployed import ABORTED, PROMOTED, RUNNING, DeployedRelease, Status
from demos.photographs import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cdk_inference.local import Outcome

ROOT = Path(__file__).parents[1]
APP = "python3 examples/release/app.py"
DIGITS = ROOT / "model_assets" / "digits_cnn" / "digits.csv.gz"
OBJECTS = 120
"""Digits in a burst: the last of the file, which the model was not trained on."""
PATIENCE = 240.0  # seconds, after which something hangs


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo; the exit code is that of `make demo-release`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", action="store_true", help="release a good candidate instead, which gets everything")
    good = parser.parse_args(arguments).good
    began = time.monotonic()
    with LocalCloud() as cloud, Steps(console) as steps:
        context = {"candidate": "good"} if good else {}
        cloud.deploy(ROOT, app=APP, context=context, on_line=steps.line, on_step=steps.begin)
        (table,) = cloud.resources(role="releases")
        release = DeployedRelease(table, cloud.client("dynamodb"))
        steps.begin("waiting for the release to begin")
        until(lambda: release.status().status == RUNNING)
        outcomes: list[Outcome] = []
        burst, hangs = 0, time.monotonic() + PATIENCE
        while release.status().status == RUNNING and time.monotonic() < hangs:
            steps.begin(f"reading {OBJECTS} digits, {release.status().share:g} % of them with the candidate")
            outcomes += read(cloud, burst, OBJECTS)
            burst += 1
            until(lambda: release.status().status != RUNNING, patience=6)  # a window, and a little
        ended = release.status()
        steps.begin("reading 20 more")
        after = read(cloud, burst, 20)
        steps.begin("stopping the embedded AWS")
    show_arms(outcomes)
    show_decisions(ended)
    arms = Counter(str((outcome.row or {})["variant"]) for outcome in after)
    answered = " and ".join(f"the {arm} model {count}" for arm, count in arms.items())
    console.print(f"\nOf the 20 digits after that, {answered}. In all {time.monotonic() - began:.0f} s.")
    return 0 if (ended.status, set(arms)) == ((PROMOTED, {"candidate"}) if good else (ABORTED, {"stable"})) else 1


def until(condition: Callable[[], bool], patience: float = 30.0) -> None:
    """Wait until a condition holds, or for so many seconds."""
    end = time.monotonic() + patience
    while not condition() and time.monotonic() < end:
        time.sleep(0.25)


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the images of digits and what they are."""
    table = np.loadtxt(DIGITS, delimiter=",", dtype=np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


def read(cloud: LocalCloud, burst: int, count: int) -> list[Outcome]:
    """Put digits into the inbox, and return what was read."""
    images, labels = digits()
    uploads = []
    for number in range(count):
        place = -1 - (burst * OBJECTS + number) % 450
        file = io.BytesIO()
        np.save(file, images[place])
        uploads.append(cloud.pipeline().put(f"{burst}/{number}-is-{labels[place]}.npy", file.getvalue()))
    return cloud.wait_for(uploads)


def show_arms(outcomes: Iterable[Outcome]) -> None:
    """Print how well each arm read; the release itself knows no labels."""
    read_by: dict[str, list[bool]] = {}
    for outcome in outcomes:
        row = outcome.row or {}
        right = outcome.label == outcome.key.partition("-is-")[2].removesuffix(".npy")
        read_by.setdefault(f"{row.get('variant')}, {row.get('model_version')}", []).append(right)
    table = Table("model", "digits", "read right")
    for arm, right in sorted(read_by.items(), reverse=True):
        table.add_row(arm, str(len(right)), f"{sum(right) / len(right):.0%}")
    console.print(table)


def show_decisions(status: Status) -> None:
    """Print every decision with its reason, as `python -m cdk_inference.release status` does."""
    table = Table("after", "by", "status", "share", "reason")
    for entry in status.history:
        after = (entry["at"] - status.history[0]["at"]) / 1000
        table.add_row(f"{after:.0f} s", entry["by"], entry["status"], f"{entry['share']:g} %", entry["reason"])
    console.print(table)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LocalError as error:
        console.print(f"[red]error: {escape(str(error))}")
        sys.exit(1)
