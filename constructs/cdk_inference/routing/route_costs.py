"""Estimates the cost of a pipeline's routes from their models; see `costs` for the method."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from aws_cdk import Annotations, Stack, Token

from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.costs.advice import always_on_advice
from cdk_inference.costs.estimates import estimate
from cdk_inference.costs.options import MOST_IN_A_BATCH, CascadeOption, CpuOption, GpuOption, PipelineShape, Traffic
from cdk_inference.costs.recorded import METADATA_KEY, RecordedCosts
from cdk_inference.errors import PropError
from cdk_inference.gpu.inference import LONGEST_WAIT, LambdaGpu
from cdk_inference.gpu.sagemaker import SageMakerAsync
from cdk_inference.model.cascade import calibrate
from cdk_inference.routing.inference import CpuStrategy, GpuStrategy

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_inference.costs.options import ItemKind
    from cdk_inference.gpu.inference import GpuBackend
    from cdk_inference.model.calibration import Calibration
    from cdk_inference.routing.plan import PlannedRoute, RoutePlan
    from cdk_inference.routing.route import Route

_MILLION = Traffic(items_per_month=1_000_000)
# The cheapest with this many GiB; Lambda may give more than it is asked for.
_INSTANCES = ((3, "g6f.large"), (16, "g4dn.xlarge"), (24, "g6.xlarge"), (48, "g6e.xlarge"))


def option(route: Route, name: str | None = None, *, platform: LambdaPlatform | None = None) -> CpuOption | GpuOption:
    """Return a route as the estimates take it.

    Parameters
    ----------
    route
        The route.
    name
        The name of the option. Default: the route's.
    platform
        The platform of the pipeline's functions, whose architecture has its own price. Default: that of the app.

    Raises
    ------
    PropError
        If its latency is not known, or the backend's numbers are known at deployment only.
    """
    inference = route.inference
    if isinstance(inference, GpuStrategy):
        backend, item_ms = inference.backend, _gpu_ms(route)
        if isinstance(backend, SageMakerAsync):
            return GpuOption(
                name or route.name,
                milliseconds=item_ms,
                backend="sagemaker",
                instance=backend.instance_type,
            )
        return _on_lambda(name or route.name, item_ms, backend)
    memory = inference.memory_size if isinstance(inference, CpuStrategy) else 1769
    if Token.is_unresolved(memory):
        raise PropError(
            f"memory_size of '{name or route.name}' must be known at synth for its costs, got a token; give a number"
        )
    measured = route.model.manifest.measured
    known = route.milliseconds if route.milliseconds is not None else None if measured is None else measured.deployed_ms
    architecture = LambdaPlatform.resolve(route.model, platform).architecture
    found = CpuOption(name or route.name, milliseconds=known, memory_size=memory, architecture=architecture)
    share, runs = _explained(route)
    return replace(found, explained=share, explanation_runs=runs) if runs else found


def _explained(route: Route) -> tuple[float, float]:
    """Return the share of a route's answers that is explained, and the model's runs for an explanation."""
    explanation = route.explanation
    if explanation is None or explanation.figures is None:
        return 0.0, 0.0
    return explanation.share, explanation.figures.runs


def _gpu_ms(route: Route) -> float | None:
    """Return the milliseconds of an item on a GPU: an explanation's runs are further items of the model's batches."""
    share, runs = _explained(route)
    return None if route.milliseconds is None else route.milliseconds * (1 + share * runs)


def _on_lambda(name: str, milliseconds: float | None, backend: GpuBackend) -> GpuOption:
    if not isinstance(backend, LambdaGpu):
        raise PropError(
            f"backend of '{name}' must be LambdaGpu for its costs to be known, got {type(backend).__name__}; leave it "
            "out"
        )
    if Token.is_unresolved(backend.accelerator_memory) or Token.is_unresolved(backend.min_environments):
        raise PropError(
            f"accelerator_memory and min_environments of '{name}' must be known at synth for its costs, got a token; "
            "give numbers, or compare options of cdk_inference.costs yourself"
        )
    instance = next((each for memory, each in _INSTANCES if memory >= backend.accelerator_memory), None)
    if instance is None:
        raise PropError(
            f"accelerator_memory of '{name}' must be that of an instance with a price here, got "
            f"{backend.accelerator_memory} GiB; compare a GpuOption(instance=…) of your own with "
            "cdk_inference.costs.choose"
        )
    return GpuOption(
        name,
        milliseconds=milliseconds,
        instance=instance,
        always_on=backend.min_environments,
        # The network of a capacity provider, or VPC, of one's own is there anyway.
        endpoints=None if backend.capacity is None and backend.vpc is None else 0,
    )


def planned_option(plan: RoutePlan, planned: PlannedRoute) -> CpuOption | GpuOption | CascadeOption | None:
    """Return a way through a workflow as the estimates take it; None if its costs are not known."""
    try:
        first = option(planned.route, platform=plan.platform)
        if planned.escalation is None or not isinstance(first, CpuOption):
            return first
        then = option(plan.planned[plan.destinations[planned.escalation.then].planned].route, platform=plan.platform)
        calibration = planned.escalation.calibration
        share = 1.0 if calibration is None else calibration.escalation_rate
        return CascadeOption(planned.name, first=first, then=then, escalation=share)
    except PropError:
        return None


def record_costs(
    pipeline: Construct, plan: RoutePlan, batch_size: int, *, items_are: ItemKind, fused: bool = False
) -> None:
    """Write what the costs of a pipeline depend on into its template, for reviews.

    Parameters
    ----------
    pipeline
        The pipeline; one without a workflow is taken for a direct one.
    plan
        The plan of its routing.
    batch_size
        Most items in a batch. If it is known at deployment only, nothing is written.
    items_are
        The items of its trigger, as those of `PipelineShape`.
    fused
        Whether one function does all.
    """
    if Token.is_unresolved(batch_size):
        return
    shape = PipelineShape(
        batch_size=min(batch_size, MOST_IN_A_BATCH),
        architecture=LambdaPlatform.resolve(pipeline, plan.platform).architecture,
        fused=fused,
        direct=getattr(pipeline, "workflow", None) is None,
        items_are=items_are,
    )
    shares = plan.planned_shares
    ways = {name: planned_option(plan, plan.planned[name]) for name in shares}
    # In the template, for what is deployed has no other part of a cloud assembly.
    options = Stack.of(pipeline).template_options
    metadata = dict(options.metadata or {})
    recorded = {**metadata.get(METADATA_KEY, {}), pipeline.node.path: RecordedCosts(shape, ways, shares).to_json()}
    options.metadata = {**metadata, METADATA_KEY: recorded}


def cascade_option(
    name: str, first: Route, then: Route, agreement: float, platform: LambdaPlatform | None = None
) -> CascadeOption:
    """Return a cascade as the estimates take it, calibrated.

    Raises
    ------
    PropError
        If a latency is not known, or the first model is on a GPU.
    """
    cheap = option(first, platform=platform)
    if not isinstance(cheap, CpuOption):
        raise PropError(f"first must be a route on a CPU, got '{first.name}' on a GPU; begin with one on a CPU")
    calibration = calibrate(first.model, then.model, agreement=agreement)
    return CascadeOption(
        name, first=cheap, then=option(then, platform=platform), escalation=calibration.escalation_rate
    )


def cascade_costs(
    first: Route, then: Route, calibration: Calibration, platform: LambdaPlatform | None = None
) -> dict[str, float]:
    """Return US dollars for a million items by each route alone and by the cascade, as far as latencies are known."""
    alone = {}
    for route in (first, then):
        try:
            alone[route.name] = option(route, platform=platform)
            estimate(alone[route.name], _MILLION)
        except PropError:  # no latency, or no price
            alone.pop(route.name, None)
    options: dict[str, CpuOption | GpuOption | CascadeOption] = dict(alone)
    one, two = alone.get(first.name), alone.get(then.name)
    if isinstance(one, CpuOption) and two is not None:
        options["cascade"] = CascadeOption(
            "cascade", first=one, then=two, escalation=calibration.escalation_rate, quality=calibration.agreement
        )
    estimates = {name: estimate(each, _MILLION).usd_per_million for name, each in options.items()}
    return {name: round(usd, 2) for name, usd in estimates.items() if usd is not None}


def advise(
    scope: Construct,
    route: Route,
    traffic: Traffic,
    *,
    fused: bool = False,
    platform: LambdaPlatform | None = None,
) -> None:
    """Warn if the function of a route that all items take would cost less with capacity that is always on."""
    inference = route.inference
    if not isinstance(inference, CpuStrategy) or inference.capacity is not None:
        return
    known = option(route, platform=platform)
    if fused and isinstance(known, CpuOption) and known.milliseconds is not None:
        shape = PipelineShape()
        known = replace(known, milliseconds=known.milliseconds + shape.preprocess_ms + shape.postprocess_ms)
    advice = always_on_advice(known, traffic) if isinstance(known, CpuOption) else None
    if advice is not None:
        capacity = (
            f"provisioned({advice.environments})"
            if advice.offer == "provisioned concurrency"
            else f"managed_instances(max_environments={advice.environments})"
        )
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:always-on",
            f"route {route.name}: {advice.message()}; pass inference=Inference.cpu(memory_size={advice.memory_size}, "
            f"capacity=Capacity.{capacity})",
        )


def warn_of_backlog(scope: Construct, route: Route, traffic: Traffic) -> None:
    """Warn if the GPU of a route that all items take cannot do a burst in time.

    Batches are handed over as they come, and the `max_wait` of each counts from then on, also while others are on the
    GPU.
    """
    inference = route.inference
    item_ms = _gpu_ms(route)
    if not isinstance(inference, GpuStrategy) or item_ms is None:
        return
    backend = inference.backend
    if isinstance(backend, LambdaGpu):
        prop, gpus, least = "max_environments", backend.max_environments, backend.min_environments
    elif isinstance(backend, SageMakerAsync):
        prop, gpus, least = "max_instances", backend.max_instances, 0
    else:
        return
    if Token.is_unresolved(gpus) or Token.is_unresolved(least) or inference.max_wait.is_unresolved():
        return
    start = 0.0 if least else GpuOption.start_seconds
    items = traffic.items_per_month / traffic.bursts_per_month
    work, comes = items * item_ms / 1000, traffic.burst_hours * 3600
    max_wait = inference.max_wait.to_seconds()
    longest = max(start, start + work / gpus - comes)
    if longest <= max_wait:
        return
    enough = math.ceil(work / (comes + max_wait - start)) if max_wait > start else None
    more = "" if enough is None or enough <= gpus else f"{prop}={enough}, "
    waits = f"max_wait=Duration.minutes({math.ceil(longest / 60)}), " if longest <= LONGEST_WAIT else ""
    Annotations.of(scope).add_warning_v2(
        "cdk-inference:backlog",
        f"route {route.name}: the last of a burst of {items:,.0f} items waits {longest / 60:,.0f} minutes for {gpus} "
        f"GPUs, {start / 60:.0f} of them for the first to start, and max_wait is {max_wait / 60:.0f} minutes: what "
        f"waits longer gets rows that say FAILED, and goes to the dead-letter queue; use {more}{waits}or upload more "
        "slowly",
    )
