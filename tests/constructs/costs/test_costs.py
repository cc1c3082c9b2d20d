"""Estimates: they add up, they grow with what they depend on, and a person can check them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cdk_inference import PropError
from cdk_inference.costs.advice import always_on_advice
from cdk_inference.costs.estimates import Estimate, choose, estimate
from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, PipelineShape, SplitOption, Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.quantities import MONTH_HOURS
from cdk_inference.model.records.manifest import Manifest, Measured

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = CpuOption("small", milliseconds=3)
LARGE = CpuOption("large", milliseconds=30)
GPU = GpuOption("gpu", milliseconds=0.3, endpoints=0)
STEADY = Traffic(items_per_month=3_000_000)

items = st.floats(0, 1e10)
milliseconds = st.floats(0.01, 1000)
shares = st.floats(0, 1)


@st.composite
def traffics(draw: Callable[..., Any]) -> Traffic:
    bursts = draw(st.floats(1, 1000))
    return Traffic(
        items_per_month=draw(items),
        bursts_per_month=bursts,
        burst_hours=draw(st.floats(0.01, 1)) * MONTH_HOURS / bursts,
        batch_fill=draw(st.floats(0.01, 1)),
    )


cpus = st.builds(
    CpuOption,
    st.just("cpu"),
    milliseconds=milliseconds,
    memory_size=st.integers(128, 10_240),
    architecture=st.sampled_from(["arm64", "x86_64"]),
)
gpus = st.builds(
    GpuOption,
    st.just("gpu"),
    milliseconds=milliseconds,
    backend=st.sampled_from(["lambda", "sagemaker"]),
    always_on=st.integers(0, 1),
    start_seconds=st.floats(0, 1000),
    idle_seconds=st.floats(0, 4000),
    endpoints=st.integers(0, 9),
    nat_gateways=st.integers(0, 2),
)
cascades = st.builds(CascadeOption, st.just("cascade"), first=cpus, then=cpus | gpus, escalation=shares)
options = cpus | gpus | cascades
shapes = st.builds(PipelineShape, batch_size=st.integers(1, 32), work_objects=st.floats(0, 4))


def not_less(larger: float, smaller: float) -> bool:
    return larger >= smaller * (1 - 1e-9) - 1e-12


@given(options, traffics(), shapes)
def test_lines_add_up(option, traffic, shape) -> None:
    result = estimate(option, traffic, shape=shape)
    assert result.usd_per_month == math.fsum(line.usd for line in result.lines)
    assert len({line.service for line in result.lines}) == len(result.lines)
    assert all(line.usd >= 0 and math.isfinite(line.usd) for line in result.lines)
    assert result.usd_per_month == pytest.approx(sum(result.usd(line.service) for line in result.lines))
    if traffic.items_per_month:
        assert result.usd_per_million == pytest.approx(result.usd_per_month / traffic.items_per_month * 1e6)


@given(options, traffics(), shapes, st.floats(1, 100))
def test_more_items_cost_more(option, traffic, shape, factor) -> None:
    more = replace(traffic, items_per_month=traffic.items_per_month * factor)
    assert not_less(
        estimate(option, more, shape=shape).usd_per_month, estimate(option, traffic, shape=shape).usd_per_month
    )


@given(cpus | gpus, traffics(), st.floats(1, 100))
def test_a_slower_model_costs_more(option, traffic, factor) -> None:
    slower = replace(option, milliseconds=option.milliseconds * factor)
    assert not_less(estimate(slower, traffic).usd_per_month, estimate(option, traffic).usd_per_month)
    assert not_less(estimate(slower, traffic).seconds[1], estimate(option, traffic).seconds[1])


@given(options, traffics(), st.sampled_from(sorted(Prices().by_name())), st.floats(1, 100))
def test_higher_prices_cost_more(option, traffic, name, factor) -> None:
    prices = Prices()
    table, _, instance = name.partition(".")
    value = getattr(prices, table)
    higher = replace(prices, **{table: {**value, instance: value[instance] * factor} if instance else value * factor})
    assert not_less(
        estimate(option, traffic, prices=higher).usd_per_month, estimate(option, traffic, prices=prices).usd_per_month
    )


@given(options, traffics(), st.floats(0.1, 10))
def test_another_region_costs_in_proportion(option, traffic, factor) -> None:
    here, there = (estimate(option, traffic, prices=p) for p in (Prices(), Prices().scaled(factor, region="there")))
    assert there.usd_per_month == pytest.approx(here.usd_per_month * factor)


@given(cascades, traffics(), shapes)
def test_a_cascade_costs_at_least_its_first_leg_and_at_most_both(cascade, traffic, shape) -> None:
    def usd(option: Any) -> float:
        return estimate(option, traffic, shape=shape).usd_per_month

    first, both = usd(cascade.first), usd(cascade)
    assert not_less(both, first)
    assert not_less(first + usd(cascade.then), both)
    assert not_less(usd(replace(cascade, escalation=1)), both)


@given(traffics(), st.floats(0, 1), st.floats(0, 1))
def test_more_escalations_cost_more(traffic, one, other) -> None:
    less, more = (
        estimate(CascadeOption("c", first=SMALL, then=GPU, escalation=share), traffic) for share in sorted([one, other])
    )
    assert not_less(more.usd_per_month, less.usd_per_month)


@given(traffics())
def test_a_cascade_that_never_escalates_is_its_first_leg(traffic) -> None:
    alone = {line.service: line.usd for line in estimate(SMALL, traffic).lines}
    cascade = estimate(CascadeOption("c", first=SMALL, then=GPU, escalation=0), traffic)
    assert {line.service: line.usd for line in cascade.lines if line.usd} == {k: v for k, v in alone.items() if v}


@given(options, traffics(), shapes)
def test_a_split_with_one_way_is_that_way(option, traffic, shape) -> None:
    one = estimate(option, traffic, shape=shape)
    split = estimate(SplitOption("split", ways=((1.0, option),)), traffic, shape=shape)
    assert (split.lines, split.seconds) == (one.lines, one.seconds)


@given(cpus, cpus, traffics(), shapes, shares)
def test_a_split_shares_the_front_and_writes_each_row_once(one, other, traffic, shape, share) -> None:
    both = [estimate(each, traffic, shape=shape) for each in (one, other)]
    split = estimate(SplitOption("split", ways=((share, one), (1 - share, other))), traffic, shape=shape)
    for service in ("EventBridge events", "SQS requests", "pipe requests", "express executions", "DynamoDB writes"):
        assert split.usd(service) == pytest.approx(both[0].usd(service))
    expected = share * both[0].usd_per_month + (1 - share) * both[1].usd_per_month
    # Each way has invocations and tensors for its own part of a batch.
    own = {line.service for line in split.lines if line.service.startswith(("Lambda requests", "S3 "))}
    more = sum(split.usd(name) - share * both[0].usd(name) - (1 - share) * both[1].usd(name) for name in own)
    assert more >= -1e-9
    assert split.usd_per_month == pytest.approx(expected + more)
    assert split.seconds[0] <= max(each.seconds[0] for each in both)


@given(traffics())
def test_a_cascade_pays_where_the_second_leg_is_dear(traffic) -> None:
    assume(traffic.items_per_month > 1)
    dear = replace(LARGE, milliseconds=1000)
    cascade = estimate(CascadeOption("c", first=SMALL, then=dear, escalation=0.1), traffic)
    assert estimate(SMALL, traffic).usd_per_month < cascade.usd_per_month < estimate(dear, traffic).usd_per_month


@pytest.mark.parametrize("option", [SMALL, GPU, CascadeOption("c", first=SMALL, then=GPU, escalation=0.2)])
def test_nothing_costs_nothing(option) -> None:
    result = estimate(option, Traffic(items_per_month=0))
    assert result.usd_per_month == 0
    assert result.usd_per_million is None
    assert "sum" in result.explain()


def test_what_is_always_on_costs_without_traffic() -> None:
    kept = estimate(replace(GPU, always_on=1, endpoints=2, nat_gateways=1), Traffic(items_per_month=0))
    assert kept.usd("g6.xlarge hours") == pytest.approx(730 * 0.8048 * 1.15)
    assert kept.usd("endpoint hours") == pytest.approx(2 * 730 * 0.01)
    assert kept.usd("NAT gateway hours") == pytest.approx(730 * 0.045)
    assert kept.usd_per_million is None
    assert len(kept.lines) == 3


def test_the_network_of_a_gpu_is_paid_unless_said_otherwise() -> None:
    def hours(**props: Any) -> float:
        return estimate(GpuOption("gpu", milliseconds=1, **props), STEADY).usd("endpoint hours") / 0.01

    assert hours() == pytest.approx(4 * 730)
    assert hours(endpoints=0) == 0
    assert hours(backend="sagemaker") == 0
    assert hours(backend="sagemaker", endpoints=2) == pytest.approx(2 * 730)


def test_the_cpu_bill_by_hand() -> None:
    shape = PipelineShape(batch_size=10, preprocess_ms=20, postprocess_ms=0, work_objects=2, row_kb=1.5)
    bill = estimate(CpuOption("m", milliseconds=100), Traffic(items_per_month=1_000_000), shape=shape)
    assert {line.service: round(line.usd, 6) for line in bill.lines} == {
        "EventBridge events": 1.0,
        "SQS requests": 0.48,  # 1.2 million
        "pipe requests": 0.04,  # 100,000 batches
        "express executions": 0.1,
        "S3 GETs of objects": 0.4,
        "S3 PUTs of tensors": 1.0,
        "S3 GETs of tensors": 0.08,
        "DynamoDB writes": 1.25,  # rows of 2 units
        "Lambda requests": 0.06,
        "GB-seconds of Lambda, arm64": round(0.12 * 1769 / 1024 * 13.3334, 6),
        "GB-seconds of express": round(0.12 / 16 * 16.67, 6),  # 64 MB
    }


def test_the_bill_of_a_fused_pipeline_by_hand() -> None:
    shape = PipelineShape(batch_size=10, preprocess_ms=20, postprocess_ms=30, row_kb=1.5, fused=True)
    model = CpuOption("m", milliseconds=100, memory_size=1769, architecture="x86_64")
    bill = estimate(model, Traffic(items_per_month=1_000_000), shape=shape)
    assert {line.service: round(line.usd, 6) for line in bill.lines} == {
        "EventBridge events": 1.0,
        "SQS requests": 0.48,
        "pipe requests": 0.04,
        "express executions": 0.1,
        "S3 GETs of objects": 0.4,
        "DynamoDB writes": 1.25,
        "Lambda requests": 0.02,  # one a batch
        "GB-seconds of Lambda, x86_64": round(0.15 * 1769 / 1024 * 16.6667, 6),
        "GB-seconds of express": round(0.15 / 16 * 16.67, 6),
    }
    assert bill.seconds == (1.5, 1.5)
    objects = {line.service for line in bill.lines}
    for kind, without in (
        ("messages", {"EventBridge events", "S3 GETs of objects"}),
        ("records", {"EventBridge events", "S3 GETs of objects", "SQS requests"}),
    ):
        lines = estimate(model, Traffic(items_per_month=1_000_000), shape=replace(shape, items_are=kind)).lines
        assert objects - {line.service for line in lines} == without


@given(cpus, traffics(), st.builds(PipelineShape, batch_size=st.integers(1, 32)))
def test_with_the_same_memory_fused_costs_no_more(option, traffic, shape) -> None:
    shape = replace(shape, preprocess_memory=option.memory_size, postprocess_memory=option.memory_size)
    option = replace(option, architecture=shape.architecture)
    one = estimate(option, traffic, shape=replace(shape, fused=True)).usd_per_month
    assert not_less(estimate(option, traffic, shape=shape).usd_per_month, one)


def test_a_gpu_is_paid_from_its_start_to_the_end_of_its_idle_time() -> None:
    gpu = GpuOption("gpu", milliseconds=1, start_seconds=100, idle_seconds=200)
    shape = PipelineShape(batch_size=32)

    def hours(**traffic: float) -> float:
        return estimate(gpu, Traffic(**traffic), shape=shape).usd("g6.xlarge hours") / (0.8048 * 1.15)

    # one batch in each burst
    assert hours(items_per_month=320, bursts_per_month=10, burst_hours=1) == pytest.approx(10 * 300.032 / 3600)
    # batches that are so close that it stays up: start, the burst, idle
    assert hours(items_per_month=10_000, bursts_per_month=1, burst_hours=2) == pytest.approx(2 + 300 / 3600)
    # batches that are so far apart that it stops in between
    assert hours(items_per_month=96, bursts_per_month=1, burst_hours=730) == pytest.approx(3 * 300.032 / 3600)
    # more work than one instance can do while it comes
    assert hours(items_per_month=36e6, bursts_per_month=1, burst_hours=1) == pytest.approx(10 + 300 / 3600)


def test_gpus_that_are_always_on_are_as_many_as_the_traffic_needs() -> None:
    gpu = replace(GPU, milliseconds=1, always_on=1)
    in_an_hour = Traffic(items_per_month=9e6, burst_hours=1)  # 2.5 hours of work
    for least, instances in ((1, 3), (3, 3), (4, 4)):
        bill = estimate(replace(gpu, always_on=least), in_an_hour)
        assert bill.usd("g6.xlarge hours") == pytest.approx(instances * 730 * 0.8048 * 1.15)


def test_all_of_a_batch_may_go_on_to_the_second_leg() -> None:
    alone, asked = (estimate(option, STEADY).seconds for option in (SMALL, LARGE))
    for share in (0.01, 1):
        both = estimate(CascadeOption("c", first=SMALL, then=LARGE, escalation=share), STEADY).seconds
        assert both == pytest.approx([one + other for one, other in zip(alone, asked, strict=True)])
    cascade = CascadeOption("c", first=SMALL, then=GPU, escalation=0)
    assert estimate(cascade, STEADY).seconds == alone


def test_a_hand_over_is_billed_by_transition() -> None:
    bill = estimate(GPU, STEADY)
    assert bill.usd("standard transitions") == pytest.approx(3 / 32 * 5 * 25)
    four = estimate(GPU, STEADY, shape=PipelineShape(hand_over_transitions=4))
    assert four.usd("standard transitions") == pytest.approx(3 / 32 * 4 * 25)
    assert estimate(SMALL, STEADY).usd("standard transitions") == 0
    # the express part of a hand-over ends with the preprocessing
    assert bill.usd("GB-seconds of express") == pytest.approx(3 * 15e-3 / 16 * 16.67)


def test_few_escalations_need_few_hand_overs() -> None:
    def transitions(escalation: float, batch_fill: float = 1) -> float:
        cascade = CascadeOption("c", first=SMALL, then=GPU, escalation=escalation)
        bill = estimate(cascade, replace(STEADY, batch_fill=batch_fill))
        return bill.usd("standard transitions") / 25 * 1e6 / 5

    assert transitions(1) == pytest.approx(3e6 / 32)
    assert transitions(0.01) == pytest.approx(3e6 / 32 * (1 - 0.99**32))
    assert transitions(0.01, batch_fill=1 / 32) == pytest.approx(3e6 * 0.01)


def test_sagemaker_bills_its_own_parts() -> None:
    managed, sagemaker = (estimate(replace(GPU, backend=backend), STEADY) for backend in ("lambda", "sagemaker"))
    assert sagemaker.usd("ml.g6.xlarge hours") == pytest.approx(managed.usd("g6.xlarge hours") / 0.92552 * 1.1267)
    for service in ("Lambda requests", "DynamoDB writes", "S3 PUTs of tensors"):
        assert sagemaker.usd(service) > managed.usd(service)


@pytest.mark.parametrize(
    ("memory", "milliseconds"),
    [(1769, 100), (884, 100 * 1769 / 884), (3538, 55), (10_240, 100 * (0.1 + 0.9 * 1769 / 10_240))],
)
def test_memory_is_speed(memory, milliseconds) -> None:
    assert CpuOption("m", milliseconds=100, memory_size=memory).item_ms == pytest.approx(milliseconds)


def test_latencies_come_from_the_manifest() -> None:
    measured = Measured("EPYC", float32_ms=5, deployed_ms=2, speedup=2.5, float32_peak_mb=1, deployed_peak_mb=1)
    manifest = replace(manifest_of("lite0"), measured=measured)
    option = CpuOption.of(manifest, memory_size=3538, quality=0.9)
    assert (option.name, option.milliseconds, option.memory_size, option.quality) == ("lite0", 2, 3538, 0.9)
    with pytest.raises(PropError, match=r"milliseconds of 'lite0' must be known, got none .*pinned"):
        CpuOption.of(manifest_of("lite0"))


def manifest_of(name: str) -> Manifest:
    return Manifest(name, "0", (), (), "", "static_int8", "arm64", (), 17, 1, 1, None, {}, None, {}, False, {})


def test_every_formula_can_be_checked_by_hand() -> None:
    cascade = CascadeOption("c", first=SMALL, then=replace(GPU, endpoints=3), escalation=0.2)
    text = estimate(cascade, Traffic(items_per_month=5e6, bursts_per_month=20, burst_hours=3)).explain()
    head, *rows, total = text.splitlines()
    assert head == "c: 5,000,000 items a month, in 20 bursts of 3 h (us-east-1, 2026-11-29, USD a month)"
    shown = 0.0
    for row in rows:
        usd, count, unit, price = re.search(
            r"  ([\d,.]+)  ([\d,.]+) x ([\d,.]+ h x )?([\d.]+)(?! h)", row.replace(" h x 0.9", " x 0.9")
        ).groups()
        factor = 1e-6 if "per million" in row else 1
        hours = float(unit.split()[0]) if unit else 1
        computed = float(count.replace(",", "")) * hours * float(price) * factor
        assert float(usd) == pytest.approx(computed, abs=0.006, rel=1e-3), row
        shown += float(usd)
    assert float(total.split()[1]) == pytest.approx(shown, abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GpuOption("lite2"), "milliseconds of 'lite2' must be given, .*benchmarks/gpu.py"),
        (lambda: GpuOption("g", milliseconds=0), "milliseconds must be .*, got 0"),
        (
            lambda: GpuOption("g", milliseconds=1, backend="batch"),
            "backend must be 'lambda' or 'sagemaker', got 'batch'",
        ),
        (lambda: GpuOption("g", milliseconds=1, idle_seconds=-1), "idle_seconds must be .*, got -1"),
        (
            lambda: estimate(GpuOption("g", milliseconds=1, instance="p5"), STEADY),
            "instance must be a type with a known price .*, got 'p5'",
        ),
        (lambda: CpuOption("c"), "milliseconds of 'c' must be known"),
        (lambda: CpuOption("c", milliseconds=1, memory_size=64), "memory_size must be .*, got 64"),
        (lambda: CpuOption("c", milliseconds=math.inf), "milliseconds must be .*, got inf"),
        (lambda: CascadeOption("c", first=SMALL, then=LARGE, escalation=1.5), "escalation must be .*, got 1.5"),
        (lambda: SplitOption("s", ways=((0.5, SMALL), (0.4, LARGE))), "shares of 's' must add up to 1, got 0.9"),
        (lambda: SplitOption("s", ways=((1.5, SMALL), (-0.5, LARGE))), "the share of 'small' must be .*, got 1.5"),
        (lambda: Traffic(items_per_month=-1), "items_per_month must be .*, got -1"),
        (lambda: Traffic(items_per_month=1, bursts_per_month=31, burst_hours=24), "744 hours"),
        (lambda: Traffic(items_per_month=1, batch_fill=0), "batch_fill must be .*, got 0"),
        (lambda: Traffic(items_per_month=1, batch_fill=2), "batch_fill must be .*, got 2"),
        (lambda: PipelineShape(batch_size=0), "batch_size must be .*, got 0"),
        (lambda: PipelineShape(items_are="files"), "items_are"),
        (lambda: PipelineShape(batch_size=33), "batch_size must be at most 32, .* got 33"),
        (lambda: PipelineShape(preprocess_memory=99), "preprocess_memory must be .*, got 99"),
        (
            lambda: estimate(GpuOption("g", milliseconds=1), STEADY, shape=PipelineShape(fused=True)),
            "is not on the CPU alone",
        ),
        (lambda: always_on_advice(SMALL, STEADY, most_busy=0), "most_busy must be .*, got 0"),
    ],
)
def test_wrong_numbers(make, message) -> None:
    with pytest.raises(PropError, match=message):
        make()


class TestChoice:
    def test_little_traffic_goes_to_the_cpu_and_much_to_the_gpu(self) -> None:
        heavy = CpuOption("cpu", milliseconds=400)
        gpu = GpuOption("gpu", milliseconds=4)
        chosen = [choose([heavy, gpu], Traffic(items_per_month=n)).chosen.name for n in (0, 1e3, 1e5, 1e7, 1e9)]
        assert chosen == ["cpu", "cpu", "cpu", "cpu", "gpu"]

    def test_the_reason_has_the_figures(self) -> None:
        decision = choose([LARGE, SMALL, GPU], STEADY)
        cheap = estimate(SMALL, STEADY).usd_per_month
        assert decision.chosen.name == "small"
        assert decision.reason.startswith(f"small is cheapest: {cheap:,.2f} USD a month for 3,000,000 items a month")
        assert f"large {estimate(LARGE, STEADY).usd_per_month:,.2f}" in decision.reason
        text = decision.explain()
        assert all(each.explain() in text for each in decision.estimates)
        assert [each.name for each in decision.estimates] == ["large", "small", "gpu"]

    def test_wishes_come_before_the_price(self) -> None:
        small, large = replace(SMALL, quality=0.75), replace(LARGE, milliseconds=300, quality=0.81)
        cascade = CascadeOption("cascade", first=small, then=large, escalation=0.2, quality=0.80)
        gpu = replace(GPU, quality=0.82)
        decision = choose([small, large, cascade, gpu, replace(SMALL, name="?")], STEADY, min_quality=0.8)
        assert decision.chosen.name == "cascade"
        assert decision.refused == {
            "small": "its quality is 0.75, and 0.8 is wanted",
            "?": "its quality is not known, and 0.8 is wanted",
        }
        assert "small is out: its quality is 0.75" in decision.explain()
        decision = choose([gpu, large], STEADY, max_seconds=20)
        assert decision.chosen.name == "large"
        assert decision.refused["gpu"].startswith("a batch may take 301.0 s")

    def test_of_equally_cheap_ones_the_first(self) -> None:
        twin = replace(SMALL, name="twin")
        assert choose([twin, SMALL], STEADY).chosen.name == "twin"

    def test_no_option_is_left(self) -> None:
        with pytest.raises(
            PropError,
            match=r"options must include one that meets the wishes, got none .*small: a batch may take .* large: ",
        ):
            choose([SMALL, LARGE], STEADY, max_seconds=0.001)

    @pytest.mark.parametrize("options", [[], [SMALL, SMALL]])
    def test_options_have_names_of_their_own(self, options) -> None:
        with pytest.raises(PropError, match="options must be at least one, each with a unique name, got "):
            choose(options, STEADY)

    @given(st.lists(options, min_size=1, max_size=4), traffics())
    def test_nothing_is_cheaper_than_what_was_chosen(self, several, traffic) -> None:
        named = [replace(option, name=str(n)) for n, option in enumerate(several)]
        decision = choose(named, traffic)
        assert all(decision.chosen.usd_per_month <= each.usd_per_month for each in decision.estimates)
        assert isinstance(decision.chosen, Estimate)


class TestAlwaysOn:
    MODEL = CpuOption("m", milliseconds=50)

    def test_little_traffic_needs_none(self) -> None:
        assert always_on_advice(self.MODEL, Traffic(items_per_month=0)) is None
        assert always_on_advice(self.MODEL, STEADY) is None
        # nor does much of it in a few hours: what is always on is idle otherwise
        assert always_on_advice(self.MODEL, Traffic(items_per_month=6e8, burst_hours=24)) is None

    def test_the_advice_by_hand(self) -> None:
        # 1.2e9 x 50 ms are 22.8 environments of one vCPU all month; at most 70 % busy that is 33, or 9 x 4 vCPUs
        advice = always_on_advice(self.MODEL, Traffic(items_per_month=1.2e9))
        gb_seconds = 1.2e9 * 0.05 * 1769 / 1024
        assert advice.on_demand_usd == pytest.approx(gb_seconds * 13.3334e-6)
        assert (advice.offer, advice.units) == ("managed instances", 9)
        assert (advice.memory_size, advice.environments) == (2048, 36)  # the least there is, one vCPU
        assert advice.always_on_usd == pytest.approx(9 * 730 * 0.15952 * 1.15 + 4 * 730 * 0.01)
        assert advice.break_even_items == pytest.approx(advice.always_on_usd / advice.on_demand_usd * 1.2e9)
        assert advice.message() == (
            "steady traffic makes always-on capacity cheaper: 1,200,000,000 items a month cost 1,382.04 USD of "
            "inference on demand and 1,234.45 USD with 9 instances of c8g.xlarge and their network (managed "
            "instances), which pay from 1,071,854,653 items a month on"
        )

    def test_provisioned_concurrency_where_it_is_cheaper(self) -> None:
        advice = always_on_advice(self.MODEL, Traffic(items_per_month=3e8), most_busy=0.9)
        assert advice.offer == "provisioned concurrency"
        gb, busy = 1769 / 1024, 3e8 * 0.05
        kept = math.ceil(busy / (730 * 3600) / 0.9)
        assert advice.units == advice.environments == kept
        assert advice.memory_size == 1769
        assert advice.always_on_usd == pytest.approx(kept * gb * 730 * 3600 * 3.3334e-6 + busy * gb * 7.7778e-6)

    @given(cpus, traffics(), st.floats(0.1, 1))
    def test_advice_is_never_dearer(self, option, traffic, most_busy) -> None:
        advice = always_on_advice(option, traffic, most_busy=most_busy)
        if advice is not None:
            assert advice.always_on_usd < advice.on_demand_usd
            assert advice.break_even_items < traffic.items_per_month * (1 + 1e-9)
            assert advice.units >= 1
            busy = traffic.items_per_month * option.milliseconds / 1000 / 3600 / traffic.busy_hours
            vcpus = advice.memory_size / (1769 if advice.offer == "provisioned concurrency" else 2048)
            speed = vcpus if vcpus <= 1 else 1 / (1 - option.parallel + option.parallel / min(vcpus, 6))
            assert advice.environments * most_busy >= busy / speed * (1 - 1e-6)
