"""Names of files and records of a retraining, which functions, jobs and policies have in common."""

from __future__ import annotations

LABELS = "labels/"
"""Files with new labels, which anybody with the right to do so puts there."""

REJECTED = "rejected-labels/"
"""For each of those with labels that were not taken: these labels, and why."""

LABEL_SETS = "label-sets/"
"""The labels of each run."""

WEIGHTS = "weights/"
"""The weights of each run, and the report of its training."""

BUILDS = "builds/"
"""The report of each build."""

MODELS = "models"
"""The registry."""

REPORT = "report.json"

COUNTER = "labels"
"""The record of the table of runs that counts labels: ``accepted`` in all, and ``selected`` by the last run.

``deferred`` is the month whose budget has held a run back, if there is one.
"""


def label_set(run: str) -> str:
    """Return the key of the labels of a run."""
    return f"{LABEL_SETS}{run}.jsonl"


def weights(run: str, name: str) -> str:
    """Return the key of a file that a run has trained."""
    return f"{WEIGHTS}{run}/{name}"


def report(folder: str, run: str) -> str:
    """Return the key of a report: that of the training, in `WEIGHTS`, or of the build, in `BUILDS`."""
    return f"{folder}{run}/{REPORT}"
