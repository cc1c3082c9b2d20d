"""A pipeline says which route was chosen, what a cascade costs, and when capacity should stay on."""

from __future__ import annotations

import re
from dataclasses import replace

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kinesis as kinesis
from aws_cdk.assertions import Annotations, Match, Template
from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import (
    Capacity,
    Execution,
    GpuCapacity,
    Inference,
    InferencePipeline,
    ItemsFormat,
    KinesisTrigger,
    LambdaGpu,
    LambdaPlatform,
    ModelArtifact,
    Preprocess,
    PropError,
    QueueTrigger,
    Route,
    Routing,
    S3ItemsTrigger,
    SageMakerAsync,
    Traffic,
)
from cdk_inference.costs import CpuOption, GpuOption, always_on_advice, estimate
from cdk_inference.costs.recorded import METADATA_KEY, RecordedCosts
from cdk_inference.model import Calibration, Float16
from cdk_inference.model.records.manifest import Measured
from cdk_inference.routing.plan import RoutePlan
from cdk_inference.routing.route_costs import advise, cascade_costs, option, warn_of_backlog

STEADY = Traffic(items_per_month=200_000_000)
QUIET = Traffic(items_per_month=10_000, bursts_per_month=4, burst_hours=1)


def route(stack, name, *, milliseconds=None, measured=None, inference=None, precision=None):
    """Return a route whose model looks as if it were built."""
    model = ModelArtifact(stack, f"Model{name}", recipe=replace(RECIPE, name=name), precision=precision)
    found = None if measured is None else Measured("a CPU", 2 * measured, measured, 2.0, 90.0, 60.0)
    model.manifest = replace(model.manifest, model_version=f"{name}0", measured=found)
    return Route(
        name,
        model=model,
        preprocess=Preprocess.image(size=224),
        inference=inference or Inference.cpu(),
        milliseconds=milliseconds,
    )


def cpu_and_gpu(stack, cpu_ms, gpu_ms):
    on_gpu = route(stack, "gpu", milliseconds=gpu_ms, inference=Inference.gpu(), precision=Float16())
    return route(stack, "cpu", measured=cpu_ms), on_gpu


def test_a_light_model_with_little_traffic_goes_to_the_cpu_and_the_template_says_why():
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 5, 1)
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.cheapest(cpu=cpu, gpu=gpu, traffic=QUIET))
    assert list(pipeline.routes) == ["cpu"]
    assert resources(stack, "AWS::Lambda::CapacityProvider") == {}
    (output,) = [o for n, o in Template.from_stack(stack).to_json()["Outputs"].items() if "Decision" in n]
    assert "cpu is cheapest" in output["Value"]
    assert "gpu" in output["Value"]
    Annotations.from_stack(stack).has_info("/Stack/Photos", Match.string_like_regexp("cpu is cheapest"))


def test_a_heavy_model_with_much_traffic_goes_to_the_gpu():
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 900, 2)
    plan = RoutePlan.of(Routing.cheapest(cpu=cpu, gpu=gpu, traffic=STEADY))
    assert list(plan.routes) == ["gpu"]


def test_a_gpu_that_has_to_start_is_too_slow_for_who_can_not_wait():
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 900, 2)
    plan = RoutePlan.of(Routing.cheapest(cpu=cpu, gpu=gpu, traffic=STEADY, max_seconds=120))
    assert list(plan.routes) == ["cpu"]


def test_a_cascade_is_chosen_when_little_is_escalated_to_a_heavy_model(monkeypatch):
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 4000, 500)
    first = route(stack, "first", measured=3)
    monkeypatch.setattr("cdk_inference.model.cascade.calibrate", calibrated)
    monkeypatch.setattr("cdk_inference.routing.route_costs.calibrate", calibrated)
    plan = RoutePlan.of(Routing.cheapest(cpu=cpu, gpu=gpu, first=first, traffic=STEADY))
    assert list(plan.planned)[-1].startswith("first>")
    assert "first, then cpu" in plan.decisions[0]
    assert "first, then gpu" in plan.decisions[0]


def calibrated(first, then, *, agreement):
    """Return what a calibration of two good models might say: the real one is tested in tests/model."""
    return Calibration(
        first=first.manifest.name,
        first_version=first.version,
        then=then.manifest.name,
        then_version=then.version,
        target=agreement,
        threshold=0.7,
        samples=500,
        escalation_rate=0.1,
        agreement=0.992,
        agreement_bound=0.98,
        first_agreement=0.9,
        descriptions=None,
        accuracy=None,
        curve=(),
    )


def test_a_cascade_is_in_the_template_with_its_expected_rate_and_costs(monkeypatch):
    stack = make_stack()
    monkeypatch.setattr("cdk_inference.model.cascade.calibrate", calibrated)
    first, then = route(stack, "first", measured=3), route(stack, "then", measured=50)
    InferencePipeline(stack, "Photos", routing=Routing.cascade(first=first, then=then))
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    (cascade,) = machine["Metadata"]["cdk-inference"]["cascades"]
    assert machine["Metadata"]["cdk-inference"]["pipeline"] == "Stack/Photos"
    assert cascade["threshold"] == 0.7
    assert cascade["expected_escalation_rate"] == 0.1
    costs = cascade["cost_per_million"]
    assert costs["first"] < costs["cascade"] < costs["then"]
    (output,) = [o for n, o in Template.from_stack(stack).to_json()["Outputs"].items() if "Cascades" in n]
    assert output["Value"].startswith("first counts from confidence 0.70, else then is asked: 10 % of 500 samples")


def test_what_is_not_known_is_left_out_of_a_cascades_costs():
    stack = make_stack()
    first, then = (
        route(stack, "first", measured=3),
        route(stack, "then", inference=Inference.gpu(), precision=Float16()),
    )
    costs = cascade_costs(first, then, calibrated(first.model, then.model, agreement=0.99))
    assert list(costs) == ["first"]


def test_a_cascade_that_is_of_no_use_warns(monkeypatch):
    stack = make_stack()
    monkeypatch.setattr(
        "cdk_inference.model.cascade.calibrate",
        lambda *models, agreement: replace(calibrated(*models, agreement=agreement), escalation_rate=1.0),
    )
    routing = Routing.cascade(first=route(stack, "first", measured=3), then=route(stack, "then", measured=50))
    InferencePipeline(stack, "Photos", routing=routing)
    Annotations.from_stack(stack).has_warning("/Stack/Photos", Match.string_like_regexp("asks then about every sample"))


@pytest.mark.parametrize(("traffic", "warns"), [(STEADY, True), (QUIET, False)], ids=["steady", "quiet"])
def test_steady_traffic_is_warned_of_with_the_capacity_to_keep(traffic, warns):
    stack = make_stack()
    one = route(stack, "main", measured=50)
    InferencePipeline(stack, "Photos", model=one.model, preprocess=one.preprocess).advise(traffic)
    found = Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("always-on capacity cheaper"))
    assert bool(found) is warns
    if warns:
        assert "pass inference=Inference.cpu(memory_size=1769, capacity=Capacity." in str(found[0].entry.data)


@pytest.mark.parametrize(
    ("items", "capacity"), [(3e8, "provisioned"), (1.2e9, "managed_instances"), (6e9, "managed_instances")]
)
def test_advice_that_is_followed_works(items, capacity):
    traffic = Traffic(items_per_month=items)
    stack = make_stack()
    one = route(stack, "main", measured=50)
    advise(stack, one, traffic)
    (found,) = Annotations.from_stack(stack).find_warning("*", Match.any_value())
    code = re.search(r"pass inference=(.*\))", str(found.entry.data))[1]
    stack = make_stack()
    one = route(stack, "main", measured=50, inference=eval(code))  # noqa: S307 (our own)
    InferencePipeline(stack, "Photos", routing=one).advise(traffic)
    assert capacity in code
    assert not Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("always-on"))
    advised = always_on_advice(option(one), traffic)
    if capacity == "managed_instances":
        (version,) = [
            v["Properties"]["FunctionScalingConfig"]
            for v in resources(stack, "AWS::Lambda::Version").values()
            if "FunctionScalingConfig" in v["Properties"]
        ]
        busy = items * 0.050 / 3600 / 730  # environments of one vCPU
        assert busy / 0.7 <= version["MaxExecutionEnvironments"] == advised.environments < busy / 0.7 + 13


def on_lambda(stack, **props):
    inference = Inference.gpu(backend=LambdaGpu(**props))
    return route(stack, "a", milliseconds=2, inference=inference, precision=Float16())


@pytest.mark.parametrize(
    ("memory", "instance"),
    [
        (3, "g6f.large"),
        (6, "g4dn.xlarge"),
        (12, "g4dn.xlarge"),
        (16, "g4dn.xlarge"),
        (24, "g6.xlarge"),
        (48, "g6e.xlarge"),
    ],
)
def test_an_option_has_an_instance_with_the_memory_of_its_gpu(memory, instance):
    known = option(on_lambda(make_stack(), accelerator_memory=memory))
    assert known.instance_type == instance
    assert estimate(known, QUIET).usd(f"{instance} hours") > 0


def test_an_option_has_the_gpus_that_stay():
    stack = make_stack()
    assert option(on_lambda(stack)).always_on == 0
    kept = option(on_lambda(make_stack(), min_environments=2))
    assert kept.always_on == 2
    assert estimate(kept, QUIET).usd("g6.xlarge hours") == pytest.approx(2 * 730 * 0.8048 * 1.15)


def test_a_network_that_is_there_anyway_is_not_counted():
    stack = make_stack()
    assert option(on_lambda(stack)).endpoint_zones == 4
    assert option(on_lambda(make_stack(), vpc=ec2.Vpc(stack, "Vpc"))).endpoint_zones == 0
    assert option(on_lambda(make_stack(), capacity=GpuCapacity(stack, "Gpus"))).endpoint_zones == 0


@pytest.mark.parametrize("prop", ["accelerator_memory", "min_environments"])
def test_what_is_known_at_deployment_only_has_no_costs(prop):
    stack = make_stack()
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    with pytest.raises(
        PropError, match="accelerator_memory and min_environments of 'a' must be known at synth for its costs"
    ):
        option(on_lambda(stack, **{prop: number}))


def test_memory_that_no_priced_instance_has_is_refused():
    with pytest.raises(
        PropError,
        match=r"accelerator_memory of '.*' must be .*, got 96 GiB; compare a GpuOption\(instance=…\) of your own",
    ):
        option(on_lambda(make_stack(), accelerator_memory=96))


BURST = Traffic(items_per_month=4e6, bursts_per_month=4, burst_hours=0.5)


def backlog(inference, traffic=BURST, milliseconds=10):
    stack = make_stack()
    warn_of_backlog(
        stack, route(stack, "a", milliseconds=milliseconds, inference=inference, precision=Float16()), traffic
    )
    return [str(found.entry.data) for found in Annotations.from_stack(stack).find_warning("*", Match.any_value())]


def test_a_burst_that_outlasts_the_wait_is_warned_of_with_what_would_do():
    # A million items of 10 ms are 10,000 s of work, on 2 GPUs 5,000 s. They start 300 s late and come for 1,800 s.
    (warning,) = backlog(Inference.gpu())
    assert "the last of a burst of 1,000,000 items waits 58 minutes for 2 GPUs, 5 of them" in warning
    assert "max_wait is 20 minutes" in warning
    assert "use max_environments=4, max_wait=Duration.minutes(59), or upload more slowly" in warning
    assert not backlog(Inference.gpu(backend=LambdaGpu(max_environments=4)))
    assert not backlog(Inference.gpu(max_wait=cdk.Duration.minutes(59)))
    assert not backlog(Inference.gpu(), replace(BURST, burst_hours=2))
    (other,) = backlog(Inference.gpu(backend=SageMakerAsync()))
    assert "use max_instances=4, " in other


def test_a_gpu_that_is_there_needs_no_start():
    kept = LambdaGpu(min_environments=1, max_environments=3)  # 10,000 / 3 s of work while they come for 1,800
    assert not backlog(Inference.gpu(backend=kept, max_wait=cdk.Duration.minutes(26)))
    assert backlog(Inference.gpu(backend=replace(kept, min_environments=0), max_wait=cdk.Duration.minutes(26)))


def test_a_wait_that_does_not_outlast_a_start_is_warned_of():
    (warning,) = backlog(Inference.gpu(max_wait=cdk.Duration.minutes(4)), QUIET)
    assert "use max_wait=Duration.minutes(5), or upload" in warning


@pytest.mark.parametrize(
    ("inference", "milliseconds"), [(Inference.cpu(), 10), (Inference.gpu(), None)], ids=["cpu", "unknown"]
)
def test_no_backlog_is_computed_where_nothing_is_known(inference, milliseconds):
    assert not backlog(inference, milliseconds=milliseconds)


def test_an_instance_without_a_price_is_left_out_of_a_cascades_costs():
    stack = make_stack()
    dear = Inference.gpu(backend=SageMakerAsync(instance_type="ml.g5.2xlarge"))
    first = route(stack, "first", measured=3)
    then = route(stack, "then", milliseconds=2, inference=dear, precision=Float16())
    assert list(cascade_costs(first, then, calibrated(first.model, then.model, agreement=0.99))) == ["first"]


def test_capacity_that_is_kept_already_is_not_advised():
    stack = make_stack()
    one = route(stack, "main", measured=50)
    kept = Inference.cpu(capacity=Capacity.provisioned(3))
    InferencePipeline(stack, "Photos", model=one.model, preprocess=one.preprocess, inference=kept).advise(STEADY)
    assert not Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("always-on"))


def test_a_fused_function_is_advised_as_it_is():
    """It is busy with all stages, so that always-on capacity pays with less traffic."""
    traffic = Traffic(items_per_month=185_000_000)
    warned = {}
    for fused in (False, True):
        stack = make_stack()
        one = route(stack, "main", measured=50)
        advise(stack, one, traffic, fused=fused)
        warned[fused] = len(Annotations.from_stack(stack).find_warning("*", Match.any_value()))
    assert warned == {False: 0, True: 1}


def test_a_fused_pipeline_with_a_capacity_is_not_advised():
    stack = make_stack()
    one = route(stack, "main", measured=50)
    kept = {"execution": Execution.fused(), "capacity": Capacity.provisioned(3)}
    InferencePipeline(stack, "Photos", model=one.model, preprocess=one.preprocess, **kept).advise(STEADY)
    assert not Annotations.from_stack(stack).find_warning("*", Match.string_like_regexp("always-on"))


def test_a_latency_that_was_measured_counts_more_than_the_locks():
    stack = make_stack()
    known = option(route(stack, "a", measured=50, milliseconds=7))
    assert isinstance(known, CpuOption)
    assert known.milliseconds == 7


def test_an_option_knows_the_backend_of_its_gpu():
    stack = make_stack()
    sagemaker = Inference.gpu(backend=SageMakerAsync(instance_type="ml.g6.xlarge"))
    known = option(route(stack, "a", milliseconds=2, inference=sagemaker, precision=Float16()))
    assert isinstance(known, GpuOption)
    assert (known.backend, known.instance_type) == ("sagemaker", "ml.g6.xlarge")
    on_lambda = option(
        route(stack, "b", milliseconds=2, inference=Inference.gpu(backend=LambdaGpu()), precision=Float16())
    )
    assert isinstance(on_lambda, GpuOption)
    assert on_lambda.backend == "lambda"


def test_a_gpu_whose_latency_nobody_measured_fails():
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 5, None)
    with pytest.raises(PropError, match=r"milliseconds of 'gpu' must be given, .*benchmarks/gpu.py"):
        RoutePlan.of(Routing.cheapest(cpu=cpu, gpu=gpu, traffic=QUIET))


def test_a_stack_that_is_not_bundled_decides_nothing():
    stack = make_stack()
    model = ModelArtifact(stack, "Model", recipe=RECIPE)
    cpu = Route("cpu", model=model, preprocess=Preprocess.image(size=224))
    gpu = Route("gpu", model=model, preprocess=Preprocess.image(size=224), inference=Inference.gpu())
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.cheapest(cpu=cpu, gpu=gpu, traffic=QUIET))
    assert list(pipeline.routes) == ["cpu"]


def test_a_burst_that_outlasts_the_wait_warns():
    stack = make_stack()
    gpu = route(stack, "gpu", milliseconds=30, inference=Inference.gpu(), precision=Float16())
    burst = Traffic(items_per_month=1_000_000, bursts_per_month=1, burst_hours=1)
    InferencePipeline(stack, "Photos", routing=gpu).advise(burst)
    Annotations.from_stack(stack).has_warning("/Stack/Photos", Match.string_like_regexp("the last of a burst"))


def recorded(pipeline):
    """Return what the template says of a pipeline's costs, or nothing."""
    metadata = cdk.Stack.of(pipeline).template_options.metadata or {}
    text = metadata.get(METADATA_KEY, {}).get(pipeline.node.path)
    return None if text is None else RecordedCosts.from_json(text)


def test_the_template_says_what_costs_depend_on():
    stack = make_stack()
    cpu, gpu = cpu_and_gpu(stack, 5, 1)
    split = Routing.split({"a": (90, cpu), "b": (10, gpu)})
    costs = recorded(InferencePipeline(stack, "Photos", routing=split, batch_size=16))
    assert (costs.shape.batch_size, costs.shape.fused, costs.shape.direct) == (16, False, False)
    assert costs.ways == {"cpu": option(cpu), "gpu": option(gpu)}
    assert costs.shares == {"cpu": 0.9, "gpu": pytest.approx(0.1)}
    assert [name for _, name in sorted((share, way.name) for share, way in costs.mix().ways)] == ["gpu", "cpu"]
    fused = InferencePipeline(stack, "Fused", routing=cpu, execution=Execution.fused())
    assert recorded(fused).shape.fused
    (function,) = (
        each["Metadata"]["cdk-inference"]
        for name, each in resources(stack, "AWS::Lambda::Function").items()
        if "PhotosRoutescpuInference" in name
    )
    # A review compares them with what is deployed.
    assert function["model"]["measured"] == {"deployed_ms": 5, "deployed_peak_mb": 60.0}


def test_shares_of_shares_are_multiplied_and_those_of_a_route_are_added():
    stack = make_stack()
    one, other = (route(stack, name, measured=5) for name in ("one", "other"))
    inner = Routing.split({"a": (1, one), "b": (3, other)}, salt="inner")
    split = Routing.split({"left": (20, one), "right": (80, inner)})
    costs = recorded(InferencePipeline(stack, "Photos", routing=split))
    assert costs.shares == {"one": pytest.approx(0.4), "other": pytest.approx(0.6)}


def test_what_a_cascade_passes_on_counts_for_its_first_route(monkeypatch):
    monkeypatch.setattr("cdk_inference.model.cascade.calibrate", calibrated)
    stack = make_stack()
    first, then = route(stack, "first", measured=3), route(stack, "then", measured=50)
    split = Routing.split({"a": (3, Routing.cascade(first=first, then=then)), "b": (1, then)})
    costs = recorded(InferencePipeline(stack, "Photos", routing=split))
    assert costs.shares == {"first>then (a)": 0.75, "then": 0.25}
    cascade = costs.ways["first>then (a)"]
    assert (cascade.escalation, cascade.then) == (0.1, option(then))
    assert costs.mix() is not None


@pytest.mark.parametrize("known", [True, False])
def test_shares_that_depend_on_the_objects_are_not_known(known):
    stack = make_stack()
    one, other = (route(stack, name, measured=5) for name in ("one", "other"))
    by_size = Routing.by_size(limit=9, below=one, otherwise=other)
    routing = Routing.split({"a": (1, one), "b": (1, other)}) if known else by_size
    costs = recorded(InferencePipeline(stack, "Photos", routing=routing))
    assert costs.shares == dict.fromkeys(("one", "other"), 0.5 if known else None)
    assert (costs.mix() is not None) is known


@pytest.mark.parametrize("by", ["props", "context"])
def test_an_option_has_the_architecture_of_the_pipelines_functions(by):
    context = {"cdk-inference:platform": "3.13/x86_64"} if by == "context" else {}
    stack = cdk.Stack(cdk.App(context=context | {"aws:cdk:bundling-stacks": []}), "Stack")
    platform = LambdaPlatform("3.13", "x86_64") if by == "props" else None
    one = route(stack, "main", measured=50)
    pipeline = InferencePipeline(stack, "Photos", routing=one, platform=platform)
    costs = recorded(pipeline)
    assert costs.shape.architecture == costs.ways["main"].architecture == "x86_64"
    assert option(one).architecture == ("x86_64" if by == "context" else "arm64")
    million = Traffic(items_per_month=1e6)
    services = {line.service for line in estimate(costs.ways["main"], million, shape=costs.shape).lines}
    assert {name for name in services if "of Lambda" in name} == {"GB-seconds of Lambda, x86_64"}


def test_costs_are_those_of_what_the_trigger_takes():
    stack = make_stack()
    stream = kinesis.Stream(stack, "Clicks")
    for number, (trigger, kind) in enumerate(
        (
            (None, "objects"),
            (QueueTrigger(stack, "Queue"), "messages"),
            (S3ItemsTrigger(stack, "Lines", items=ItemsFormat.json_lines()), "messages"),
            (KinesisTrigger(stack, "Stream", stream=stream), "records"),
        )
    ):
        one = route(stack, f"one{number}", measured=5)
        pipeline = InferencePipeline(stack, f"Pipeline{number}", routing=one, trigger=trigger)
        assert recorded(pipeline).shape.items_are == kind


def test_costs_that_are_known_at_deployment_only_are_not_in_the_template():
    stack = make_stack()
    number = cdk.CfnParameter(stack, "Number", type="Number").value_as_number
    late = route(stack, "late", measured=5, inference=Inference.cpu(memory_size=number))
    assert recorded(InferencePipeline(stack, "Memory", routing=late)).ways == {"late": None}
    known = route(stack, "known", measured=5)
    assert recorded(InferencePipeline(stack, "Batches", routing=known, batch_size=number)) is None
