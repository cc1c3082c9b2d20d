"""The routes that a drift monitor watches: the numbers of their models, and the functions that count them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.records.manifest import Observation
    from cdk_inference.routing.plan import Escalation
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.postprocess import Postprocess

MOST_STATISTICS = 24
"""Statistics of a model. Each makes the others less sensitive, and their bins must fit into the environment."""

LEAST_SAMPLES = 50
"""Samples of a baseline. With fewer, only a drift that nobody could miss would show."""

_OF_CLASSES = ("label", "confidence", "margin", "entropy")


@dataclass(frozen=True, kw_only=True)
class WatchedRoute:
    """A route that a drift monitor watches.

    Parameters
    ----------
    name
        The route's name.
    model, postprocess
        Its model, and how the outputs become a prediction, which tells classes from vectors.
    input_stage, output_stage
        The functions that have inputs and outputs of the model; a fused one is both.
    escalation
        If the model is the first of a cascade.

    Raises
    ------
    PropError
        The model has no baseline, or one of too few samples.
    """

    name: str
    model: ModelArtifact
    postprocess: Postprocess
    input_stage: StageFunction
    output_stage: StageFunction
    escalation: Escalation | None = None

    def __post_init__(self) -> None:
        manifest = self.model.manifest
        if not manifest.size_bytes:  # a placeholder: nothing is built, so nothing can be checked
            return
        if not self.observations:
            raise PropError(
                f"model of route '{self.name}' must have a baseline to notice drift, got {manifest.name} with a lock "
                "from before there were any; add one with: python -m cdk_inference.model baseline RECIPE"
            )
        samples = max(sum(one.counts) for one in self.observations)
        if samples < LEAST_SAMPLES:
            raise PropError(
                f"evaluation.data of {manifest.name} must have at least {LEAST_SAMPLES} samples to notice drift, got "
                f"{samples}; add samples like those of production"
            )

    @cached_property
    def observations(self) -> list[Observation]:
        """The numbers that are observed: of outputs first, and either of classes or of a vector."""
        kept = [one for one in self.model.manifest.baseline if one.source == "input" or self._fits(one)]
        return kept[:MOST_STATISTICS]

    def _fits(self, one: Observation) -> bool:
        return (one.kind in _OF_CLASSES) == self._has_classes(one)

    def _has_classes(self, one: Observation) -> bool:
        outputs = self.model.outputs
        if self.postprocess.classes is not None and self.postprocess.head is None:
            return one.tensor == (self.postprocess.output or outputs[0].name)
        metric = self.model.manifest.metric
        classified = self.escalation is not None or (metric is not None and metric.name.startswith("top"))
        floats = [spec.name for spec in outputs if spec.dtype.startswith("float")]
        return classified and not self.postprocess.vector and one.tensor == floats[0]

    @property
    def key(self) -> str:
        """The key of the counts: the model and the bins, since counts of other bins must not be added up."""
        bins = [(one.tensor, one.kind, one.edges) for one in self.observations]
        return f"{self.model.version}#{sha256(json.dumps(bins).encode()).hexdigest()[:8]}"

    def observed(self, source: str) -> str:
        """Return what a function must observe of inputs or outputs, as the value of its variable."""
        bins = [[one.tensor, one.kind, list(one.edges)] for one in self.observations if one.source == source]
        return json.dumps(bins, separators=(",", ":"))

    def judged(self) -> dict[str, Any]:
        """Return what the judging function must know of the model."""
        statistics = [
            {"name": f"{one.tensor} {one.kind}", "attribute": f"{source[0]}{place}", "baseline": list(one.counts)}
            for source in ("output", "input")
            for place, one in enumerate(each for each in self.observations if each.source == source)
        ]
        calibration = self.escalation.calibration if self.escalation is not None else None
        if calibration is not None and calibration.samples:
            escalated = round(calibration.escalation_rate * calibration.samples)
            baseline = [calibration.samples - escalated, escalated]
            statistics.append({"name": "escalation", "attribute": "n_escalated", "baseline": baseline})
        return {"key": self.key, "version": self.model.version, "statistics": statistics}
