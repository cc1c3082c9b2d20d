"""The figures of explanations on the evaluation data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.model.recipe.structure import structure, unstructure

if TYPE_CHECKING:
    from pathlib import Path

EXPLANATIONS_FILE = "explanations.json"
"""The measurements of a model's explanations, next to its card; they do not ship."""


@dataclass(frozen=True)
class Faithfulness:
    """How faithful explanations were when the app was synthesized, and what they take.

    Parts are hidden from the weightiest to the lightest (deletion), or shown in that order (insertion). The curve of
    what is explained has an area (Petsiuk et al., arXiv 1806.07421). The lower the deletion, and the higher the
    insertion, the more faithful the weights. Orders at random have the same area both ways.

    Parameters
    ----------
    method
        The method that explained the answers.
    baseline
        The name of what hid parts.
    fill
        The values that hid them, by channel or feature; empty for tokens.
    samples
        How many samples were explained.
    deletion, insertion, random
        The mean areas.
    bound
        The insertion less the deletion is, with 95 % confidence, at least this on average. Random weights have 0.
    runs
        Runs of the model that an explanation took, on average.
    share
        Share of the evaluation samples whose answers would be explained; None if that depends on who asks.
    """

    method: str
    baseline: str
    fill: tuple[float | str, ...]
    samples: int
    deletion: float
    insertion: float
    random: float
    bound: float
    runs: float
    share: float | None


def read_faithfulness(file: Path) -> list[Faithfulness]:
    """Return the measurements in a file; none if there is no file.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    if not file.is_file():
        return []
    return structure(json.loads(file.read_text("utf-8")), list[Faithfulness])


def faithfulness_json(measurements: list[Faithfulness]) -> str:
    """Return the text of a file with these measurements."""
    return json.dumps([unstructure(each) for each in measurements], indent=1, sort_keys=True) + "\n"
