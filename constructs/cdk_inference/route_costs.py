"""What the routes of a pipeline cost, from what is known of their models: see `costs` for how it is estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Annotations

from cdk_inference.costs import CascadeOption, CpuOption, GpuOption, Traffic, always_on_advice, estimate
from cdk_inference.errors import PropError
from cdk_inference.inference import CpuStrategy, GpuStrategy
from cdk_inference.model.cascade import calibrate
from cdk_inference.sagemaker import SageMakerAsync

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_inference.model.cascade import Calibration
    from cdk_inference.routes import Route

_MILLION = Traffic(items_per_month=1_000_000)


def option(route: Route, name: str | None = None) -> CpuOption | GpuOption:
    """Return a route as the estimates take it.

    Raises
    ------
    PropError
        If its latency is not known.
    """
    inference = route.inference
    if isinstance(inference, GpuStrategy):
        backend = inference.backend
        if isinstance(backend, SageMakerAsync):
            return GpuOption(
                name or route.name,
                milliseconds=route.milliseconds,
                backend="sagemaker",
                instance=backend.instance_type,
            )
        return GpuOption(name or route.name, milliseconds=route.milliseconds)
    memory = inference.memory_size if isinstance(inference, CpuStrategy) else 1769
    measured = route.model.manifest.measured
    known = route.milliseconds if route.milliseconds is not None else None if measured is None else measured.deployed_ms
    return CpuOption(name or route.name, milliseconds=known, memory_size=memory)


def cascade_option(name: str, first: Route, then: Route, agreement: float) -> CascadeOption:
    """Return a cascade as the estimates take it, calibrated.

    Raises
    ------
    PropError
        If a latency is not known, or the first model is on a GPU.
    """
    cheap = option(first)
    if not isinstance(cheap, CpuOption):
        raise PropError(f"route '{first.name}' is first in a cascade but runs on a GPU; begin with one on a CPU")
    calibration = calibrate(first.model, then.model, agreement=agreement)
    return CascadeOption(name, first=cheap, then=option(then), escalation=calibration.escalation_rate)


def cascade_costs(first: Route, then: Route, calibration: Calibration) -> dict[str, float]:
    """Return US dollars for a million items by each route alone and by the cascade, as far as latencies are known."""
    legs = {}
    for route in (first, then):
        try:
            legs[route.name] = option(route)
        except PropError:
            continue
    options: dict[str, CpuOption | GpuOption | CascadeOption] = dict(legs)
    one, two = legs.get(first.name), legs.get(then.name)
    if isinstance(one, CpuOption) and two is not None:
        options["cascade"] = CascadeOption(
            "cascade", first=one, then=two, escalation=calibration.escalation_rate, quality=calibration.agreement
        )
    estimates = {name: estimate(each, _MILLION).usd_per_million for name, each in options.items()}
    return {name: round(usd, 2) for name, usd in estimates.items() if usd is not None}


def advise(scope: Construct, route: Route, traffic: Traffic) -> None:
    """Warn if the function of a route that all items take would cost less with capacity that is always on."""
    inference = route.inference
    if not isinstance(inference, CpuStrategy) or inference.capacity is not None:
        return
    known = option(route)
    advice = always_on_advice(known, traffic) if isinstance(known, CpuOption) else None
    if advice is not None:
        offer = f"provisioned({advice.units})" if advice.offer == "provisioned concurrency" else "managed_instances()"
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:always-on",
            f"route {route.name}: {advice.message()}; pass inference=Inference.cpu(capacity=Capacity.{offer})",
        )
