"""A release that gives the candidate a growing share, or none at all and compares the answers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cdk_inference.common.metadata import pipeline_path
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_between
from cdk_inference.errors import PropError
from cdk_inference.releases.control import ReleaseControl
from cdk_inference.releases.strategy import Arms, ReleaseStrategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Duration
    from aws_cdk import aws_cloudwatch as cloudwatch
    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages
    from cdk_inference.releases.abort_rules import AbortRule
    from cdk_inference.routing.route import Route

_DAY = 24 * 60 * 60


@check_props
@dataclass(frozen=True, kw_only=True)
class Canary(ReleaseStrategy):
    """See `Release.canary`; without steps, see `Release.shadow`."""

    candidate: Route
    stable: Route | None
    steps: tuple[float, ...]
    bake_time: Duration | None
    window: Duration | None
    abort_on: tuple[AbortRule | cloudwatch.IAlarm, ...] | None
    compared: float
    confidence: float
    min_samples: int
    salt: str

    def __post_init__(self) -> None:
        grows = all(0 < before < after for before, after in zip((0.001, *self.steps), self.steps, strict=False))
        check(
            not self.steps or (grows and self.steps[-1] == 100),  # noqa: PLR2004
            "steps",
            "percentages that grow, the last of which is 100",
            ", ".join(f"{step:g}" for step in self.steps),
        )
        check_between(0, 100, compared=self.compared)
        check(0.5 <= self.confidence < 1, "confidence", "at least 0.5 and below 1", self.confidence)  # noqa: PLR2004
        check(self.min_samples >= 1, "min_samples", "at least 1", self.min_samples)
        for name, duration in (("bake_time", self.bake_time), ("window", self.window)):
            if duration is not None:
                seconds(name, duration, least=1, most=14 * _DAY)

    def arms(self, model: Route | None) -> Arms:
        """Return the two models."""
        if self.stable is not None and model is not None:
            raise PropError("stable must be left out with the pipeline's model, got both; leave one out")
        stable = self.stable if self.stable is not None else model
        if stable is None:
            raise PropError("stable must be a Route, got None; pass one, or the pipeline's model")
        return Arms(stable, self.candidate, self.salt or "release", answers=bool(self.steps))

    def bind(
        self,
        scope: Construct,
        arms: Arms,
        stages: Mapping[str, RouteStages],  # noqa: ARG002 - nothing compares them yet
        parts: PipelineParts,
    ) -> ReleaseControl:
        """Create the table."""
        workflows = parts.workflows
        return ReleaseControl(
            scope,
            "Release",
            release_id=self._id(scope, arms),
            arms=arms,
            steps=self.steps,
            compared=self.compared,
            encryption_key=workflows["encryption_key"],
            removal_policy=workflows["log_removal_policy"],
        )

    def _id(self, scope: Construct, arms: Arms) -> str:
        """Return what the release is known by: the same models and steps are the same release."""
        released = [pipeline_path(scope), arms.stable.model.version, arms.candidate.model.version, self.salt]
        return sha256(json.dumps([*released, self.steps, self.compared]).encode()).hexdigest()[:12]
