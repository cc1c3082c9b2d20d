"""The costs of a retraining: the minutes of its jobs, and next to nothing besides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdk_inference import PropError
from cdk_inference.costs import Prices, RetrainingCosts

MONTH = RetrainingCosts(
    runs_per_month=4,
    training_minutes=20,
    build_minutes=3,
    deployment_minutes=7,
    labels_per_month=10_000,
    labels=100_000,
)


def test_the_jobs_are_nearly_all_of_it() -> None:
    items = MONTH.items()
    assert items["training"] == pytest.approx(4 * 20 * 0.01)
    assert sum(items[name] for name in ("training", "build", "deployment")) == pytest.approx(1.20)
    assert items["workflow"] == pytest.approx(80 * 25e-6)
    # 4 writes, a read, an invocation and 5 MB-seconds for each label.
    assert items["taking labels"] == pytest.approx(10_000 * (2.5e-6 + 0.325e-6 + 0.005 * 13.3334e-6))
    assert MONTH.usd_per_month == pytest.approx(1.20, abs=0.05)


def test_more_of_anything_costs_more_and_nothing_costs_nothing() -> None:
    for name in (
        "runs_per_month",
        "training_minutes",
        "build_minutes",
        "deployment_minutes",
        "labels_per_month",
        "labels",
    ):
        assert replace(MONTH, **{name: 2 * getattr(MONTH, name)}).usd_per_month > MONTH.usd_per_month
    assert replace(MONTH, runs_per_month=0, labels_per_month=0).usd_per_month == 0
    assert replace(MONTH, compute_type="general1.large").items()["training"] == pytest.approx(1.6)
    own = replace(Prices(), codebuild_minutes={"gpu": 0.65})
    assert replace(MONTH, compute_type="gpu", prices=own).items()["training"] == pytest.approx(52)


def test_numbers_and_types_that_cannot_be_fail() -> None:
    with pytest.raises(PropError, match="labels must be at least 0, got -1"):
        replace(MONTH, labels=-1)
    with pytest.raises(PropError, match=r"compute_type must be a type with a known price .*, got 'gpu'; pass prices="):
        replace(MONTH, compute_type="gpu")
