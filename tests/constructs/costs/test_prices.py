"""The table of prices: complete, dated, and to be replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from cdk_inference import PropError
from cdk_inference.costs.prices import SOURCES, Prices


def test_every_price_has_a_source_and_a_date() -> None:
    assert SOURCES.keys() == Prices().by_name().keys()
    assert all(source.page.startswith("https://aws.amazon.com/") for source in SOURCES.values())
    assert all(source.url.startswith("https://") for source in SOURCES.values())
    assert max(date.fromisoformat(source.date) for source in SOURCES.values()).isoformat() == Prices().as_of


def test_the_old_name_of_a_source_warns() -> None:
    source = SOURCES["s3_puts"]
    with pytest.warns(DeprecationWarning, match="use url and date"):
        assert source.read == f"{source.url}, {source.date}"


def test_own_prices_take_the_place_of_single_ones() -> None:
    prices = Prices()
    own = replace(prices, managed_fee=0.10, ec2_hours={**prices.ec2_hours, "g6.2xlarge": 1.0})
    assert own.managed_hour("g6.2xlarge") == pytest.approx(1.1)
    assert own.lambda_requests == prices.lambda_requests
    assert "g6.2xlarge" not in prices.ec2_hours


def test_another_region_is_a_factor_away() -> None:
    there = Prices().scaled(1.2, region="sa-east-1")
    assert there.region == "sa-east-1"
    for name, price in Prices().by_name().items():
        assert there.by_name()[name] == pytest.approx(price if name == "managed_fee" else price * 1.2)


def test_fees_and_units() -> None:
    prices = Prices()
    assert prices.managed_hour("g6.xlarge") == pytest.approx(0.8048 * 1.15)
    assert prices.sagemaker_hour("ml.g5.xlarge") == 1.408
    assert prices.lambda_gb_second("x86_64") == pytest.approx(0.0000166667)
    assert prices.provisioned_gb_second("arm64") == pytest.approx(0.0000033334)
    assert prices.provisioned_duration_gb_second("arm64") == pytest.approx(0.0000077778)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prices(sqs_requests=-1), "sqs_requests must be at least 0, got -1"),
        (lambda: Prices(ec2_hours={"g6.xlarge": float("nan")}), r"ec2_hours\.g6\.xlarge must be at least 0, got nan"),
        (lambda: Prices().managed_hour("g9.huge"), r"'g9\.huge'.*replace\(prices, ec2_hours="),
        (lambda: Prices().sagemaker_hour("g6.xlarge"), "known price .ml"),
        (lambda: Prices().lambda_gb_second("riscv"), "architecture must be 'arm64' or 'x86_64', got 'riscv'"),
        (lambda: Prices().scaled(0, region="nowhere"), "factor must be above 0, got 0"),
    ],
)
def test_wrong_prices(make, message) -> None:
    with pytest.raises(PropError, match=message):
        make()
