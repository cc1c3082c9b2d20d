"""Estimates what a retraining costs: minutes of jobs, and what takes and selects labels."""

from __future__ import annotations

from dataclasses import dataclass

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import GIB, MILLION

_TRANSITIONS = 20  # of a run, from lock to lock
_TAKE_MIB, _TAKE_SECONDS = 512, 0.01  # to look up and write a label
_SELECT_MIB, _SELECTED_A_SECOND = 2048, 10_000
_LABELS_A_UNIT = 12  # of about 330 bytes, in a read unit of 4 KB
_WRITES = 4  # for the label and for the counter, each twice, as transactions count


@check_props
@dataclass(frozen=True, kw_only=True)
class RetrainingCosts:
    """The costs of a month with runs of a retraining.

    Parameters
    ----------
    runs_per_month
        How many runs train.
    training_minutes, build_minutes, deployment_minutes
        How long the jobs of a run take. CodeBuild bills whole minutes.
    compute_type
        That of CodeBuild, for all jobs. Default: ``"general1.medium"``.
    labels_per_month
        How many labels come in, each by itself in the worst case.
    labels
        How many there are in all, which each run reads.
    prices
        Default: list prices of us-east-1.

    Raises
    ------
    PropError
        A number is below 0, or the compute type has no known price.
    """

    runs_per_month: float
    training_minutes: float
    build_minutes: float
    deployment_minutes: float
    compute_type: str = "general1.medium"
    labels_per_month: float = 0
    labels: float = 0
    prices: Prices | None = None

    def __post_init__(self) -> None:
        check_at_least(
            0,
            runs_per_month=self.runs_per_month,
            training_minutes=self.training_minutes,
            build_minutes=self.build_minutes,
            deployment_minutes=self.deployment_minutes,
            labels_per_month=self.labels_per_month,
            labels=self.labels,
        )
        (self.prices or Prices()).codebuild_minute(self.compute_type)

    def items(self) -> dict[str, float]:
        """Return the costs of a month in USD, by what they are for. Storage and logs are not among them.

        A label is taken to need 10 ms of a function of 512 MiB, and a run to read 10,000 labels in a second. Neither
        was measured on a live account.
        """
        prices = self.prices or Prices()
        minute = prices.codebuild_minute(self.compute_type)
        second = prices.lambda_gb_second("arm64")
        jobs = {
            "training": self.training_minutes,
            "build": self.build_minutes,
            "deployment": self.deployment_minutes,
        }
        taken = (
            _WRITES * prices.dynamodb_writes / MILLION
            + (prices.dynamodb_reads + prices.lambda_requests) / MILLION
            + _TAKE_SECONDS * _TAKE_MIB / GIB * second
        )
        selected = prices.dynamodb_reads / _LABELS_A_UNIT / MILLION + _SELECT_MIB / GIB * second / _SELECTED_A_SECOND
        return {
            **{name: self.runs_per_month * minutes * minute for name, minutes in jobs.items()},
            "workflow": self.runs_per_month * _TRANSITIONS * prices.standard_transitions / MILLION,
            "taking labels": self.labels_per_month * taken,
            "selecting labels": self.runs_per_month * self.labels * selected,
        }

    @property
    def usd_per_month(self) -> float:
        """The sum."""
        return sum(self.items().values())
