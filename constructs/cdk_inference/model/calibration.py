"""The result of calibrating a cascade."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.model.recipe.structure import structure, unstructure

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = 1

BOUND_CONFIDENCE = 0.95
"""How sure it is that the agreement is not below its lower bound, if the threshold had been fixed before."""

_UNBUILT = "unbuilt"


@dataclass(frozen=True)
class Point:
    """The effect of one threshold.

    Parameters
    ----------
    threshold
        A confidence; below it, the second model is asked.
    escalation_rate
        Share of the samples that the second model would be asked about.
    agreement
        Share of the samples that get the second model's answer, whoever gives it.
    """

    threshold: float
    escalation_rate: float
    agreement: float


@dataclass(frozen=True)
class Accuracy:
    """Share of the samples whose answer is the label.

    Parameters
    ----------
    first, then
        The figures of each model alone.
    cascade
        The figures of both together, at the calibrated threshold.
    """

    first: float
    then: float
    cascade: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it did to the evaluation data: pure data, the same wherever it is measured.

    Parameters
    ----------
    first, then
        Names of the two models.
    first_version, then_version
        Their versions.
    target
        The agreement that was asked for.
    threshold
        Where the first model is less sure than this, the second is asked: from 0, which asks never, to 1.01, which
        asks always.
    samples
        How many were evaluated; 0 in a placeholder.
    escalation_rate
        Share of them that the second model was asked about.
    agreement
        Share of them that got the second model's answer, whoever gave it.
    agreement_bound
        About with 95 % confidence, the agreement on data like these is at least this (one-sided, Clopper-Pearson), if
        the samples are independent of each other. Only about, because the threshold is chosen on the same samples: the
        bound is exact for a threshold that was fixed before.
    first_agreement
        Share of them on which the first model alone has the second's answer.
    descriptions
        How many of the samples' descriptions differ; None if they have none. Fewer than samples means that several
        were made from one, and that the bound promises too much.
    accuracy
        None unless the evaluation data have class numbers as labels.
    curve
        By threshold, what it would have done.
    """

    first: str
    first_version: str
    then: str
    then_version: str
    target: float
    threshold: float
    samples: int
    escalation_rate: float
    agreement: float
    agreement_bound: float
    first_agreement: float
    descriptions: int | None
    accuracy: Accuracy | None
    curve: tuple[Point, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def warning(self) -> str | None:
        """The reason why the cascade is useless on the evaluation data, with the fix; None if it is useful."""
        if not self.samples:
            return None
        pair = f"the cascade of {self.first} and {self.then}"
        if self.escalation_rate == 1.0:
            return (
                f"{pair} asks {self.then} about every sample, to agree with it on {_percent(self.target)} of them: "
                f"use {self.then} alone, lower the agreement, or take a better first model"
            )
        if self.escalation_rate == 0.0:
            return (
                f"{pair} never asks {self.then}: {self.first} alone agrees with it on {_percent(self.agreement)} of "
                f"{self.samples} samples, and {_percent(self.target)} was asked for; use {self.first} alone, or ask "
                "for more"
            )
        return None

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.samples:
            return _UNBUILT
        line = (
            f"{self.first} counts from confidence {self.threshold:.2f}, else {self.then} is asked: "
            f"{_percent(self.escalation_rate)} of {self.samples} samples, agreement {_percent(self.agreement)} "
            f"(target {_percent(self.target)}, at least {_percent(self.agreement_bound)} with "
            f"about {_percent(BOUND_CONFIDENCE)} confidence, {self.first} alone {_percent(self.first_agreement)})"
        )
        if self.accuracy is None:
            return line
        found = self.accuracy
        return f"{line}, accuracy {_percent(found.cascade)} (alone {_percent(found.first)} and {_percent(found.then)})"

    def manifest(self, *, cost_per_million: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Return what the template says about the cascade, as JSON-compatible data without the curve.

        Parameters
        ----------
        cost_per_million
            Estimated cost of a million items, by way of scoring them.
        """
        data: dict[str, Any] = {
            "schema_version": self.schema_version,
            "first": {"name": self.first, "model_version": self.first_version},
            "then": {"name": self.then, "model_version": self.then_version},
            "target_agreement": self.target,
            "threshold": self.threshold,
            "samples": self.samples,
        }
        if self.samples:
            data |= {
                "expected_escalation_rate": self.escalation_rate,
                "expected_agreement": self.agreement,
                "agreement_lower_bound": self.agreement_bound,
                "first_agreement": self.first_agreement,
            }
        if self.descriptions is not None:
            data["descriptions"] = self.descriptions
        if self.accuracy is not None:
            data["expected_accuracy"] = unstructure(self.accuracy)
        if cost_per_million is not None:
            data["cost_per_million"] = dict(cost_per_million)
        return data

    def to_json(self) -> str:
        """Serialize with sorted keys and a final newline."""
        return json.dumps(unstructure(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a calibration of this schema version, with what is wrong in it.
        """
        data = json.loads(text)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"calibration must have schema version {SCHEMA_VERSION}, got {version!r}")
        return structure(data, cls)


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
