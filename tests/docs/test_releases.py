"""The page on releases says what they cost."""

from __future__ import annotations

import pytest

from cdk_inference.costs.prices import Prices

from .pages import page


def test_the_costs_are_those_of_the_prices() -> None:
    prices = Prices()
    batches = 1_000_000 / 32
    windows = 24 * 60 / 5
    second = 64 / 1024 * prices.express_gb_seconds  # an express workflow's memory is billed in steps of 64 MB
    compared = prices.express_requests + second + 9 * prices.lambda_requests + prices.dynamodb_writes
    counted = {
        "reading the share": batches * 0.5 * prices.dynamodb_reads,
        "counting": batches * prices.dynamodb_writes,
        "judging": windows * 4 * prices.standard_transitions,
        "comparing, without the models": batches * compared,
    }
    (rows,) = page("releases.md").tables("release costs").values()
    assert {name: float(usd) for name, _, usd in rows} == {
        name: pytest.approx(usd / 1e6, abs=0.0006) for name, usd in counted.items()
    }
