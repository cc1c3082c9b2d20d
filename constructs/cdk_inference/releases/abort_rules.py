"""The reasons to abort a release: rules that compare the candidate with the stable model, and alarms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aws_cdk import Annotations
from aws_cdk import aws_cloudwatch as cloudwatch

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check, check_at_least
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_inference.releases.strategy import Arms

AGREEMENTS = ("top1_agreement", "top5_agreement", "cosine")
"""Metrics that compare two models without labels, and that have a value for each object."""


@check_props
class AbortRule(ABC):
    """A reason to abort. `AbortOn` has a factory for each kind."""

    compares: ClassVar[bool] = False
    """Whether the rule needs objects that both models answer."""

    @abstractmethod
    def bind(self, scope: Construct, arms: Arms) -> dict[str, object]:
        """Return what the function that judges the release must know of the rule, as JSON.

        Parameters
        ----------
        scope
            The construct of the release, for warnings.
        arms
            The two models.

        Raises
        ------
        PropError
            The rule does not fit the models.
        """


@check_props
class AbortOn:
    """Reasons to abort a release.

    A rule gathers evidence with every result. It fires once the evidence against the candidate is as strong as the
    release's `confidence` asks for. It can never fire on results that are not there.

    Looking often costs nothing, since the evidence is a test martingale. If the candidate meets the rule, its
    probability of ever exceeding 1 / (1 - confidence) is at most 1 - confidence (Ville 1939). See Howard,
    Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
    Statistics 49 (2021).
    """

    @classmethod
    def errors(cls, *, times: float = 1.5) -> AbortRule:
        """Abort if the candidate fails or rejects a larger share of its objects than the stable model.

        Parameters
        ----------
        times
            How many times as many are still no reason, at least 1. Default: 1.5.
        """
        return _Errors(times)

    @classmethod
    def latency(cls, *, times: float = 2.0) -> AbortRule:
        """Abort if the candidate is usually slower than the stable model on the same objects.

        Parameters
        ----------
        times
            How many times as long is still no reason, at least 1. Default: 2.
        """
        return _Latency(times)

    @classmethod
    def disagreement(
        cls, *, agreement: float | None = None, metric: str | None = None, min_confidence: float | None = None
    ) -> AbortRule:
        """Abort if the candidate's answers agree less with the stable model's than they must.

        Parameters
        ----------
        agreement
            The agreement that the candidate must have, above 0 and at most 1. Default: the gate of the candidate's
            build, if its metric is one of those.
        metric
            ``"top1_agreement"``, ``"top5_agreement"`` or ``"cosine"``. Default: the metric of the candidate's build.
        min_confidence
            Only objects count of which the stable model is this sure. Default: as the candidate's recipe says.
        """
        if agreement is not None:
            check(0 < agreement <= 1, "agreement", "above 0 and at most 1", agreement)
        if metric is not None:
            check(metric in AGREEMENTS, "metric", f"one of {', '.join(AGREEMENTS)}", f"'{metric}'")
        if min_confidence is not None:
            check(0 <= min_confidence < 1, "min_confidence", "from 0 to below 1", min_confidence)
        return Disagreement(agreement, metric, min_confidence)


@dataclass(frozen=True)
class _Errors(AbortRule):
    times: float

    def __post_init__(self) -> None:
        check_at_least(1, times=self.times)

    def bind(self, scope: Construct, arms: Arms) -> dict[str, object]:  # noqa: ARG002 - it fits all models
        return {"rule": "errors", "times": self.times}


@dataclass(frozen=True)
class _Latency(AbortRule):
    compares: ClassVar[bool] = True

    times: float

    def __post_init__(self) -> None:
        check_at_least(1, times=self.times)

    def bind(self, scope: Construct, arms: Arms) -> dict[str, object]:  # noqa: ARG002 - it fits all models
        return {"rule": "latency", "times": self.times}


@dataclass(frozen=True)
class Disagreement(AbortRule):
    """See `AbortOn.disagreement`."""

    compares: ClassVar[bool] = True

    agreement: float | None = None
    metric: str | None = None
    min_confidence: float | None = None

    def bind(self, scope: Construct, arms: Arms) -> dict[str, object]:  # noqa: ARG002 - it warns of nothing
        """Take what is not given from the candidate's build."""
        model = arms.candidate.model
        built = model.manifest.metric
        metric, agreement, sure = self.metric, self.agreement, self.min_confidence
        if model.version == "unbuilt":  # nothing is deployed of such a stack
            metric, agreement = metric or AGREEMENTS[0], agreement or 1.0
        elif metric is None or agreement is None:
            if built is None or built.name not in AGREEMENTS or metric not in (None, built.name):
                raise PropError(
                    f"metric and agreement must be given for '{model.manifest.name}', got none; its build has the "
                    f"metric '{built.name if built is not None else 'none'}', which needs labels or whole data sets"
                )
            metric, agreement = built.name, agreement if agreement is not None else built.gate
            if sure is None and model.project is not None:
                sure = model.project.recipe.evaluation.min_confidence
        if arms.stable.model.outputs[0].shape != arms.candidate.model.outputs[0].shape:
            raise PropError(
                f"outputs of stable and candidate must have one shape to be compared, got "
                f"{arms.stable.model.outputs[0].shape} and {arms.candidate.model.outputs[0].shape}; leave "
                "AbortOn.disagreement out"
            )
        return {"rule": "disagreement", "metric": metric, "agreement": agreement, "min_confidence": sure or 0.0}


@dataclass(frozen=True)
class AlarmRule(AbortRule):
    """An alarm of the user's."""

    alarm: cloudwatch.IAlarm

    def __post_init__(self) -> None:
        if isinstance(self.alarm, cloudwatch.CompositeAlarm):
            raise PropError(
                f"abort_on must name metric alarms, got the composite alarm {self.alarm.node.path}; name its alarms, "
                "since whoever reads a composite alarm must be allowed to see all alarms of the account"
            )

    def bind(self, scope: Construct, arms: Arms) -> dict[str, object]:  # noqa: ARG002 - it fits all models
        """Name the alarm; AWS takes one that does not exist for healthy, and the release must not."""
        if self.alarm.node.default_child is None:
            Annotations.of(scope).add_warning_v2(
                "cdk-inference:imported-alarm",
                f"the alarm {self.alarm.node.path} is imported, so that nobody can see at synth whether it exists; "
                "the release stays where it is while it does not",
            )
        return {"rule": "alarm", "name": self.alarm.alarm_name}
