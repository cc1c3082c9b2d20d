"""Train a model again in an embedded AWS, with wrong labels and with right ones: `make demo-retraining`."""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.steps import Steps
from cdk_inference.releases.deployed import ABORTED, PROMOTED, DeployedRelease
from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingRun
from demos.photographs import console
from demos.release import ROOT, digits, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.local import Outcome

APP = "python3 examples/retraining/app.py"
LABELLED, LOOKED_AT = range(100), range(1500, 1600)
"""Places of digits that are labelled, and of others, which no training sees."""
PATIENCE = 900.0  # seconds, after which something hangs
PAPER = 16


class EmbeddedSession:
    """A session of boto3, as far as the embedded AWS needs one.

    Parameters
    ----------
    cloud
        The embedded AWS.
    """

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud

    def client(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        """Return a client."""
        return self._cloud.client(service)


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo; the exit code is that of `make demo-retraining`."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    began = time.monotonic()
    with LocalCloud() as cloud, Steps(console) as steps:
        cloud.deploy(ROOT, app=APP, on_line=steps.line, on_step=steps.begin)
        retraining = DeployedRetraining.find(EmbeddedSession(cloud), "Digits")
        steps.begin(f"reading {len(LABELLED) + len(LOOKED_AT)} digits that are inverted")
        labelled = read(cloud, "labelled", LABELLED)
        before = read(cloud, "before", LOOKED_AT)
        truth = {outcome.key: digit_of(outcome) for outcome in labelled}
        wrong = list(truth.values())
        random.Random(1).shuffle(wrong)  # noqa: S311 - the same in each demo
        steps.begin("training with labels that somebody shuffled")
        refused = retrain(retraining, dict(zip(truth, wrong, strict=True)))
        steps.begin("training with the right labels")
        deployed = retrain(retraining, truth)
        ended = refused.status
        if deployed.status == "DEPLOYED":
            release = DeployedRelease.find(EmbeddedSession(cloud), "Digits")
            steps.begin("releasing the new model")
            ended = promote(cloud, release)
        after = read(cloud, "after", LOOKED_AT)
        steps.begin("stopping the embedded AWS")
    show_runs(refused, deployed)
    table = Table("inverted digits", "model", "read right")
    for name, outcomes in (("before", before), ("after", after)):
        versions = {str((outcome.row or {}).get("model_version")) for outcome in outcomes}
        table.add_row(name, ", ".join(sorted(versions)), f"{right(outcomes):.0%}")
    console.print(table)
    console.print(f"\nIn all {time.monotonic() - began:.0f} s.")
    done = (refused.status, deployed.status, ended) == ("REFUSED", "DEPLOYED", PROMOTED)
    return 0 if done and right(after) > right(before) else 1


def read(cloud: LocalCloud, folder: str, places: Sequence[int]) -> list[Outcome]:
    """Put digits whose ink is the paper into the inbox, and return what was read."""
    images, labels = digits()
    uploads = []
    for place in places:
        file = io.BytesIO()
        np.save(file, PAPER - images[place])
        uploads.append(cloud.pipeline().put(f"{folder}/{place}-is-{labels[place]}.npy", file.getvalue()))
    return cloud.wait_for(uploads)


def digit_of(outcome: Outcome) -> str:
    """Return the digit that an object really is."""
    return outcome.key.partition("-is-")[2].removesuffix(".npy")


def right(outcomes: Sequence[Outcome]) -> float:
    """Return the share of digits that were read right."""
    return sum(outcome.label == digit_of(outcome) for outcome in outcomes) / len(outcomes)


def retrain(retraining: DeployedRetraining, labels: dict[str, str]) -> RetrainingRun:
    """Label objects, and return the run that this starts once it is over."""
    before = len(retraining.status().runs)
    retraining.label([{"key": key, "label": label, "by": "the demo"} for key, label in labels.items()])

    def over() -> bool:
        runs = retraining.status().runs
        return len(runs) > before and runs[-1].status != "RUNNING"

    until(over, PATIENCE)
    return retraining.status().runs[-1]


def promote(cloud: LocalCloud, release: DeployedRelease) -> str:
    """Let the canary read digits until its release is over, and return how it ended."""
    hangs, burst = time.monotonic() + PATIENCE, 0
    while release.status().status not in (PROMOTED, ABORTED) and time.monotonic() < hangs:
        read(cloud, f"during {burst}", LOOKED_AT)
        burst += 1
    return release.status().status


def show_runs(*runs: RetrainingRun) -> None:
    """Print what became of each run, as `python -m cdk_inference.retraining status` does."""
    table = Table("run", "labels", "status", "version", "reason")
    for run in runs:
        table.add_row(run.run, str(run.labels), run.status, run.version, escape(run.reason))
    console.print(table)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LocalError as error:
        console.print(f"[red]error: {escape(str(error))}")
        sys.exit(1)
