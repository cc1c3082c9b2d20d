"""Estimates what devices cost that score most items themselves, and what they send."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_above_zero, check_share
from cdk_inference.costs.estimates import estimate
from cdk_inference.costs.options import PipelineShape, Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import MILLION

if TYPE_CHECKING:
    from cdk_inference.costs.options import Option

_DAYS = 365.25 / 12
_MB = 1e6


@check_props
@dataclass(frozen=True, kw_only=True)
class EdgeTraffic:
    """How many devices there are, and what each gets.

    Parameters
    ----------
    devices
        How many there are.
    items_per_day
        Items of one device.
    item_bytes
        The size of an item.

    Raises
    ------
    PropError
        A number is not above 0.
    """

    devices: float
    items_per_day: float
    item_bytes: float

    def __post_init__(self) -> None:
        check_above_zero(devices=self.devices, items_per_day=self.items_per_day, item_bytes=self.item_bytes)


@check_props
@dataclass(frozen=True, kw_only=True)
class EdgeCosts:
    """The costs of a month with devices that ask the cloud where they are unsure.

    Parameters
    ----------
    traffic
        The items that the devices get.
    escalation
        The share of the items that a device sends, from 0 to 1.
    cloud
        The pipeline that scores them, as an option of `estimate`. Default: not known, and no sum is.
    shape
        The shape of the pipeline. Default: that of three functions.
    rows
        Whether what a device answers itself becomes a row. Default: yes.
    greengrass
        Whether devices run AWS IoT Greengrass, which is paid for by the device. Default: yes.
    prices
        Default: list prices of us-east-1.

    Raises
    ------
    PropError
        The share is not one.
    """

    traffic: EdgeTraffic
    escalation: float
    cloud: Option | None = None
    shape: PipelineShape | None = None
    rows: bool = True
    greengrass: bool = True
    prices: Prices | None = None

    def __post_init__(self) -> None:
        check_share(escalation=self.escalation)

    @property
    def items_sent_per_day(self) -> float:
        """The items that one device sends in a day."""
        return self.traffic.items_per_day * self.escalation

    @property
    def bytes_sent_per_day(self) -> float:
        """The bytes of these; requests and rows come on top."""
        return self.items_sent_per_day * self.traffic.item_bytes

    def items(self) -> dict[str, float]:
        """Return the costs of a month in USD, by what they are for. The devices' own network is not among them.

        A row is taken to be 1 KB. ``pipeline`` is left out if its costs are not known.
        """
        prices = self.prices or Prices()
        sent = self._items * self.escalation
        found = {
            "Greengrass": self.traffic.devices * prices.greengrass_devices if self.greengrass else 0.0,
            "uploads": sent * prices.s3_puts / MILLION,
            "rows of devices": (self._items - sent) * prices.dynamodb_writes / MILLION if self.rows else 0.0,
        }
        return found if self.cloud is None else {**found, "pipeline": self._pipeline(sent)}

    @property
    def usd_per_month(self) -> float | None:
        """The sum; None if the pipeline's costs are not known."""
        return None if self.cloud is None else math.fsum(self.items().values())

    @property
    def cloud_usd_per_month(self) -> float | None:
        """The cost of a month in which the pipeline scores everything; None if its costs are not known."""
        if self.cloud is None:
            return None
        return self._items * (self.prices or Prices()).s3_puts / MILLION + self._pipeline(self._items)

    @property
    def summary(self) -> str:
        """One line for people."""
        sent = f"{100 * self.escalation:.3g} % of the items go to the cloud"
        line = (
            f"{sent}: {self.items_sent_per_day:,.0f} items and {self.bytes_sent_per_day / _MB:,.2f} MB a day and device"
        )
        here, there = self.usd_per_month, self.cloud_usd_per_month
        if here is None or there is None:
            return line
        return (
            f"{line}; {self.traffic.devices:,.0f} devices cost {here:,.2f} USD a month, all in the cloud {there:,.2f}"
        )

    @property
    def _items(self) -> float:
        return self.traffic.devices * self.traffic.items_per_day * _DAYS

    def _pipeline(self, items: float) -> float:
        if self.cloud is None:
            raise AssertionError("it is asked for only where it is known")
        return estimate(self.cloud, Traffic(items_per_month=items), shape=self.shape, prices=self.prices).usd_per_month
