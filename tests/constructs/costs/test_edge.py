"""The costs of devices: what they send and what a month costs, next to scoring everything in the cloud."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference import PropError
from cdk_inference.costs import CpuOption, EdgeCosts, EdgeTraffic, Prices, Traffic, estimate

TRAFFIC = EdgeTraffic(devices=100, items_per_day=1_000, item_bytes=50_000)
CLOUD = CpuOption("large", milliseconds=20)
ITEMS = 100 * 1_000 * 365.25 / 12
COSTS = EdgeCosts(traffic=TRAFFIC, escalation=0.1, cloud=CLOUD)


def test_each_part_is_paid_for_what_it_gets() -> None:
    items = COSTS.items()
    assert items["Greengrass"] == pytest.approx(100 * 0.16)
    assert items["uploads"] == pytest.approx(ITEMS / 10 * 5 / 1e6)
    assert items["rows of devices"] == pytest.approx(ITEMS * 9 / 10 * 0.625 / 1e6)
    assert items["pipeline"] == pytest.approx(estimate(CLOUD, Traffic(items_per_month=ITEMS / 10)).usd_per_month)
    assert COSTS.usd_per_month == pytest.approx(sum(items.values()))
    everything = ITEMS * 5 / 1e6 + estimate(CLOUD, Traffic(items_per_month=ITEMS)).usd_per_month
    assert COSTS.cloud_usd_per_month == pytest.approx(everything)
    assert (COSTS.items_sent_per_day, COSTS.bytes_sent_per_day) == (100, 5_000_000)
    assert COSTS.summary.startswith(
        "10 % of the items go to the cloud: 100 items and 5.00 MB a day and device; 100 dev"
    )


def test_what_is_not_there_costs_nothing() -> None:
    bare = replace(COSTS, rows=False, greengrass=False, escalation=0).items()
    assert set(bare.values()) == {0.0}
    own = replace(COSTS, prices=replace(Prices(), greengrass_devices=1.5))
    assert own.items()["Greengrass"] == 150


def test_a_pipeline_of_unknown_costs_has_no_sum() -> None:
    unknown = replace(COSTS, cloud=None)
    assert (unknown.usd_per_month, unknown.cloud_usd_per_month) == (None, None)
    assert "pipeline" not in unknown.items()
    assert unknown.summary == "10 % of the items go to the cloud: 100 items and 5.00 MB a day and device"


@given(st.floats(0, 1), st.floats(0, 1))
def test_who_sends_more_pays_more_to_the_cloud(one: float, other: float) -> None:
    less, more = (replace(COSTS, escalation=share).items() for share in sorted((one, other)))
    assert less["uploads"] <= more["uploads"]
    assert less["pipeline"] <= more["pipeline"] + 1e-9
    assert less["rows of devices"] >= more["rows of devices"]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_escalation_that_is_no_share_fails(share: float) -> None:
    with pytest.raises(PropError, match="escalation must be a share"):
        EdgeCosts(traffic=TRAFFIC, escalation=share)


@pytest.mark.parametrize("name", ["devices", "items_per_day", "item_bytes"])
def test_traffic_of_nothing_fails(name: str) -> None:
    with pytest.raises(PropError, match=f"{name} must be above 0"):
        replace(TRAFFIC, **{name: 0})
