"""A release that gives the candidate a growing share, or none at all and compares the answers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from aws_cdk import Duration

from cdk_inference.common.metadata import pipeline_path
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_between
from cdk_inference.errors import PropError
from cdk_inference.releases.abort_rules import AbortOn, AbortRule, AlarmRule
from cdk_inference.releases.control import ReleaseControl
from cdk_inference.releases.strategy import Arms, ReleaseStrategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_cloudwatch as cloudwatch
    from constructs import Construct

    from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages, WorkflowLogs
    from cdk_inference.pipeline.staged import SeparateStages
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
            raise PropError("stable must be a Route, got None; pass one of the routing, or give the pipeline a model")
        return Arms(stable, self.candidate, self.salt or "release", answers=bool(self.steps))

    def bind(self, scope: Construct, arms: Arms, workflows: WorkflowLogs, *, outputs_travel: bool) -> ReleaseControl:
        """Create the table."""
        rules = self._rules(arms, outputs_travel=outputs_travel)
        return ReleaseControl(
            scope,
            "Release",
            release_id=self.release_id(scope, arms),
            arms=arms,
            steps=self.steps,
            rules=rules,
            compared=self.compared if any(rule.compares for rule in rules) else 0,
            encryption_key=workflows["encryption_key"],
            removal_policy=workflows["log_removal_policy"],
        )

    def watch(self, control: ReleaseControl, stages: Mapping[str, RouteStages], parts: PipelineParts) -> None:
        """Create what compares the models, judges the release and moves its share."""
        from cdk_inference.releases.stepper import ReleaseStepper  # noqa: PLC0415 - events and targets load slowly

        arms, rules = control.arms, control.rules
        functions, workflows = parts.functions, parts.workflows
        facts = [rule.bind(control, arms) for rule in rules]
        if control.compared:
            from cdk_inference.releases.comparison import ReleaseComparison  # noqa: PLC0415 - only to compare

            control.comparison = ReleaseComparison(
                control,
                "Comparison",
                control=control,
                stable=cast("SeparateStages", stages[arms.stable.name]),
                candidate=cast("SeparateStages", stages[arms.candidate.name]),
                comparison=_comparison(facts),
                functions=functions,
                workflows=workflows,
            )
        control.stepper = ReleaseStepper(
            control,
            "Stepper",
            control=control,
            steps=self.steps,
            compared=control.compared,
            bake_time=self.bake_time if self.bake_time is not None else Duration.minutes(30),
            window=self.window if self.window is not None else Duration.minutes(5),
            rules=facts,
            alarms=[rule.alarm for rule in rules if isinstance(rule, AlarmRule)],
            confidence=self.confidence,
            min_samples=self.min_samples,
            functions=functions,
            workflows=workflows,
        )

    def _rules(self, arms: Arms, *, outputs_travel: bool) -> list[AbortRule]:
        if self.abort_on is None:
            compare = [AbortOn.latency(), AbortOn.disagreement()] if outputs_travel and arms.on_gpu is None else []
            rules = [AbortOn.errors(), *compare]
        else:
            rules = [rule if isinstance(rule, AbortRule) else AlarmRule(rule) for rule in self.abort_on]
        if not self.steps or any(rule.compares for rule in rules):
            if not outputs_travel:
                raise PropError(
                    "execution must be Execution.staged() to compare the answers of two models, got one whose outputs "
                    "stay in a function; remove execution, or use a canary with AbortOn.errors() alone"
                )
            if arms.on_gpu is not None:
                raise PropError(
                    "inference of both models must be Inference.cpu(…) to compare their answers, got a GPU for "
                    f"'{arms.on_gpu.name}', which may take longer than an express workflow; use a canary with "
                    "AbortOn.errors() and alarms"
                )
        return rules

    def release_id(self, scope: Construct, arms: Arms) -> str:
        """Return what a release is known by: the same models and steps in the same pipeline are the same release."""
        released = [pipeline_path(scope), arms.stable.model.version, arms.candidate.model.version, self.salt]
        return sha256(json.dumps([*released, self.steps, self.compared]).encode()).hexdigest()[:12]


def _comparison(rules: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return how answers are compared, as the rules ask for it."""
    by_name = {rule["rule"]: rule for rule in rules}
    disagreement = by_name.get("disagreement", {"metric": "cosine", "min_confidence": 0.0})
    return {
        "metric": disagreement["metric"],
        "min_confidence": disagreement["min_confidence"],
        "times": by_name.get("latency", {"times": 2.0})["times"],
    }
