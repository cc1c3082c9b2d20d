"""Advises when functions that are always there cost less than functions on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.common.props.validation import check_above_zero, check_at_least, check_share
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import (
    GIB,
    HOUR,
    MONTH_HOURS,
    NETWORK_ENDPOINTS,
    VCPU_MIB,
    on_vcpus,
)

if TYPE_CHECKING:
    from cdk_inference.costs.options import CpuOption, Traffic

_LEAST_MANAGED_MIB = 2048

_MANAGED_VCPU_MIB = 2048


@dataclass(frozen=True)
class AlwaysOnAdvice:
    """Capacity that is always on would cost less than paying for each call.

    Parameters
    ----------
    offer
        ``"provisioned concurrency"`` or ``"managed instances"``.
    units
        How many are kept.
    unit
        The unit: environments or instances, and their size.
    memory_size, environments
        MiB of the function, and how many environments of it run on that.
    on_demand_usd, always_on_usd
        For a month of the inference function: as it is, and with the offer.
    break_even_items
        Items a month from which this many units are cheaper.
    items
        Items a month that are expected.
    """

    offer: str
    units: int
    unit: str
    memory_size: int
    environments: int
    on_demand_usd: float
    always_on_usd: float
    break_even_items: float
    items: float

    def message(self) -> str:
        """Return the advice as a sentence with its figures."""
        return (
            f"steady traffic makes always-on capacity cheaper: {self.items:,.0f} items a month cost "
            f"{self.on_demand_usd:,.2f} USD of inference on demand and {self.always_on_usd:,.2f} USD with {self.units} "
            f"{self.unit} ({self.offer}), which pay from {self.break_even_items:,.0f} items a month on"
        )


def always_on_advice(
    option: CpuOption,
    traffic: Traffic,
    *,
    prices: Prices | None = None,
    instance: str = "c8g.xlarge",
    instance_vcpus: int = 4,
    least_instances: int = 3,
    endpoints: int = NETWORK_ENDPOINTS,
    most_busy: float = 0.7,
) -> AlwaysOnAdvice | None:
    """Say whether capacity that is always on would be cheaper for a function on the CPU, and which.

    Provisioned concurrency is compared as environments, and Managed Instances as vCPUs. Both are counted for the whole
    month, and as many as the traffic keeps busy while it comes. Costs that are alike, such as requests, are left out.
    On Managed Instances a function has at least 2,048 MiB, and a vCPU for each 2 GiB.

    Parameters
    ----------
    option
        The function.
    traffic
        The expected traffic.
    prices
        List prices.
    instance, instance_vcpus
        Type of the instances, and its vCPUs.
    least_instances
        AWS starts three for a capacity provider, in three zones.
    endpoints
        Interface endpoints of the instances' network, each once for each zone. Default: those of `InferenceNetwork`.
    most_busy
        Share of the capacity that may be busy on average; the rest is for peaks.

    Returns
    -------
    The cheaper offer; None if neither is cheaper than on demand.
    """
    check_above_zero(most_busy=most_busy)
    check_share(most_busy=most_busy)
    check_at_least(1, instance_vcpus=instance_vcpus, least_instances=least_instances)
    check_at_least(0, endpoints=endpoints)
    prices = prices or Prices()
    items = traffic.items_per_month
    if not items:
        return None
    per_item = option.gb_seconds * prices.lambda_gb_second(option.architecture)
    a_millisecond = items / 1000 / HOUR / traffic.busy_hours / most_busy  # environments that it keeps, while items come
    memory = option.memory_size / GIB

    kept = max(1, math.ceil(a_millisecond * option.item_ms - 1e-9))
    provisioned_each = option.gb_seconds * prices.provisioned_duration_gb_second(option.architecture)
    provisioned_month = kept * memory * MONTH_HOURS * HOUR * prices.provisioned_gb_second(option.architecture)

    managed_memory = max(option.memory_size, _LEAST_MANAGED_MIB)
    vcpus = managed_memory / _MANAGED_VCPU_MIB
    assert option.milliseconds is not None  # noqa: S101 (see CpuOption)
    needed = math.ceil(a_millisecond * on_vcpus(option.milliseconds, vcpus * VCPU_MIB, option.parallel) - 1e-9)
    instances = max(least_instances, math.ceil(needed * vcpus / instance_vcpus - 1e-9))
    environments = max(needed, least_instances, math.floor(instances * instance_vcpus / vcpus))
    managed_month = MONTH_HOURS * (instances * prices.managed_hour(instance) + endpoints * prices.endpoint_hours)

    offers = [
        AlwaysOnAdvice(
            offer,
            units,
            unit,
            size,
            number,
            items * per_item,
            month + items * each,
            month / (per_item - each) if per_item > each else math.inf,
            items,
        )
        for offer, units, unit, size, number, month, each in (
            (
                "provisioned concurrency",
                kept,
                f"environments of {option.memory_size:,} MiB",
                option.memory_size,
                kept,
                provisioned_month,
                provisioned_each,
            ),
            (
                "managed instances",
                instances,
                f"instances of {instance} and their network",
                managed_memory,
                environments,
                managed_month,
                0.0,
            ),
        )
    ]
    best = min(offers, key=lambda each: each.always_on_usd)
    return best if best.always_on_usd < best.on_demand_usd else None
