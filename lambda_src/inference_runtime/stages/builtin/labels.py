"""The names of classes, for the stages that name what a model found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_labels(labels: Sequence[str] | None, labels_file: str | None) -> list[str] | None:
    """Return the names of the classes in the model's order, or None if there are none.

    Parameters
    ----------
    labels
        The names.
    labels_file
        Instead of `labels`: a text file among the stage's sources, one name a line.

    Raises
    ------
    ValueError
        If both are given.
    """
    if labels is not None and labels_file is not None:
        raise ValueError("labels and labels_file are both given, expected one of them")
    if labels_file is not None:
        path = Path(os.environ.get("LAMBDA_TASK_ROOT", ""), labels_file)
        return path.read_text(encoding="utf-8").splitlines()
    return None if labels is None else list(labels)
