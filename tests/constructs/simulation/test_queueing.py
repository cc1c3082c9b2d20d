"""The simulation agrees with the theory of queues, and loses nothing."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdk_inference import PropError
from cdk_inference.costs import CascadeOption, CpuOption, GpuOption, PipelineShape, SplitOption
from cdk_inference.simulation import DOCUMENTED, Arrivals, Assumptions, Quotas, SimulationResult, simulate, sweep

LITE0 = CpuOption("lite0", milliseconds=2.796)
GPU = GpuOption("gpu", milliseconds=2)
# One function, one object at a time, and nothing besides it that takes time.
BARE = PipelineShape(fused=True, batch_size=1, preprocess_ms=0, postprocess_ms=0)
QUEUE = Assumptions(
    max_batching_window=0, event_ms=0, step_ms=0, cold_start_ms=0, distribution="exponential", workflow_timeout=1e9
)
UNLIMITED = Quotas(pipe_batches_at_first=1e6, pipe_batches=1e6, pipe_executions=1e6, new_environments=1e9)


def erlang_c_wait(servers: int, per_second: float, service: float) -> float:
    """Return the mean wait in a queue with several servers, by the formula of Erlang."""
    offered = per_second * service
    terms = [offered**n / math.factorial(n) for n in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last) / (servers / service - per_second)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.8), (20, 0.9)])
def test_waits_are_those_of_erlangs_formula(servers: int, load: float) -> None:
    service = 0.5
    per_second = load * servers / service
    arrivals = Arrivals.constant(per_second, seconds=3000 / per_second)
    found = [
        simulate(
            CpuOption("model", milliseconds=service * 1000),
            arrivals,
            shape=BARE,
            quotas=replace(UNLIMITED, concurrent_executions=servers),
            assumptions=QUEUE,
            warm_up=300 / per_second,
            seed=seed,
        )
        for seed in range(10)
    ]
    waits = [result.latency.mean - service for result in found]
    # Runs with other seeds are independent of each other; 4.3 is the 99.9 % quantile of t with 9 degrees of freedom.
    margin = 4.8 * statistics.stdev(waits) / math.sqrt(len(waits))
    assert statistics.mean(waits) == pytest.approx(erlang_c_wait(servers, per_second, service), abs=margin)
    assert margin < erlang_c_wait(servers, per_second, service)


SHAPES = st.builds(
    PipelineShape, batch_size=st.integers(1, 32), fused=st.just(False), row_kb=st.sampled_from([0, 1, 2.5])
)
OPTIONS = st.sampled_from(
    [
        LITE0,
        CascadeOption("cascade", first=LITE0, then=replace(LITE0, name="lite2", milliseconds=9), escalation=0.3),
        CascadeOption("to a GPU", first=LITE0, then=GPU, escalation=0.2),
        SplitOption("split", ways=((0.7, LITE0), (0.3, GPU))),
    ]
)
ARRIVALS = st.one_of(
    st.builds(Arrivals.constant, st.floats(0.05, 60), seconds=st.floats(100, 200)),
    st.builds(
        Arrivals.bursts,
        st.floats(1, 60),
        burst_seconds=st.floats(1, 60),
        pause_seconds=st.floats(0, 100),
        seconds=st.just(300.0),
    ),
    st.builds(Arrivals.day, st.floats(1, 2000)),
)
QUOTAS = st.builds(
    Quotas,
    concurrent_executions=st.integers(1, 50),
    pipe_batches=st.integers(5, 50),
    sqs_in_flight=st.integers(64, 2000),
    table_writes_at_first=st.integers(5, 500),
    eventbridge_invocations=st.integers(5, 500),
)
ASSUMPTIONS = st.builds(
    Assumptions,
    failures=st.sampled_from([0, 0.02, 0.4]),
    max_receive_count=st.integers(1, 3),
    workflow_timeout=st.sampled_from([2.0, 300.0]),
    max_batching_window=st.sampled_from([0, 1, 20]),
    max_wait=st.sampled_from([60.0, 1200.0]),
    idle_seconds=st.sampled_from([0.0, 600.0]),
)


@settings(max_examples=30, deadline=None)
@given(OPTIONS, ARRIVALS, SHAPES, QUOTAS, ASSUMPTIONS, st.sampled_from([0, 30, 3600]), st.integers(0, 9))
def test_every_arrival_is_finished_dead_or_still_there(
    option: object,
    arrivals: Arrivals,
    shape: PipelineShape,
    quotas: Quotas,
    assumptions: Assumptions,
    drain: float,
    seed: int,
) -> None:
    given_ = {"shape": shape, "quotas": quotas, "assumptions": assumptions, "drain": drain, "seed": seed, "warm_up": 0}
    found = simulate(option, arrivals, **given_)
    assert found.arrived == found.finished + found.dead + found.unfinished
    assert min(found.finished, found.dead, found.unfinished) >= 0
    assert min(found.backlog.values) >= 0
    assert min(found.environments.values) >= 0
    assert min(found.gpus.values) >= 0
    assert found.peak_gpus <= quotas.gpus
    levels = {use.quota.field: use for use in found.quotas}
    for field in ("concurrent_executions", "pipe_batches", "sqs_in_flight"):
        assert field not in levels or levels[field].peak <= getattr(quotas, field)
    # The same arguments, the same result.
    assert simulate(option, arrivals, **given_) == found


@settings(max_examples=6, deadline=None)
@given(OPTIONS, st.floats(5, 30), st.integers(4, 32), st.integers(0, 99))
def test_littles_law_holds(option: object, per_second: float, batch_size: int, seed: int) -> None:
    arrivals = Arrivals.constant(per_second, seconds=2000)
    found = simulate(option, arrivals, shape=PipelineShape(batch_size=batch_size), warm_up=1000, seed=seed)
    warm = found.in_system.values[len(found.in_system.values) // 2 :]
    expected = found.throughput * found.latency.mean
    # The 100 looks at the system are further apart than an object stays, and so nearly independent.
    margin = 5 * statistics.stdev(warm) / math.sqrt(len(warm)) + 0.02 * expected
    assert statistics.mean(warm) == pytest.approx(expected, abs=margin)


def test_a_seed_decides_which_objects_come() -> None:
    first, again, other = (simulate(LITE0, Arrivals.constant(50), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.arrived != other.arrived


def run(per_second: float, **given_: object) -> SimulationResult:
    arrivals = Arrivals.constant(per_second, seconds=300)
    return simulate(LITE0, arrivals, **{"warm_up": 60, **given_})


@pytest.mark.parametrize(
    ("quotas", "per_second", "assumptions"),
    [
        (Quotas(concurrent_executions=4), 400, {}),
        (Quotas(pipe_batches=6), 400, {}),
        (Quotas(pipe_executions=6), 400, {}),
        (Quotas(table_writes_at_first=100), 100, {}),
        (Quotas(eventbridge_invocations=50), 100, {}),
        (Quotas(s3_gets=50), 100, {}),
        (Quotas(kms_operations=50), 100, {}),
        (Quotas(new_environments=5), 400, {}),
        (Quotas(sqs_in_flight=70), 400, {}),
    ],
    ids=lambda value: (
        next((k for k, v in vars(value).items() if v != DOCUMENTED[k].default), "") if isinstance(value, Quotas) else ""
    ),
)
def test_what_breaks_first_is_the_quota_that_is_short(
    quotas: Quotas, per_second: float, assumptions: dict[str, float]
) -> None:
    (short,) = (field for field, value in vars(quotas).items() if value != DOCUMENTED[field].default)
    short_of = run(per_second, quotas=quotas)
    enough = run(per_second)
    assert short_of.breaks_first.quota is DOCUMENTED[short]
    assert short_of.breaks_first.reached_at is not None
    assert short_of.breaks_at <= per_second
    assert DOCUMENTED[short].name in short_of.explain()
    assert not enough.held_up_by
    assert short_of.latency.p95 > enough.latency.p95 or short == "new_environments"


def test_what_breaks_first_in_an_overload_is_what_breaks_at_the_lowest_rate() -> None:
    # EventBridge and the table hold up both, and the table lets fewer objects through.
    quotas = Quotas(eventbridge_invocations=300, table_writes_at_first=100)
    [overloaded] = (swept := sweep(LITE0, [400], quotas=quotas)).results
    both = {"eventbridge_invocations", "table_writes_at_first"}
    assert both <= {use.quota.field for use in overloaded.held_up_by}
    limit = swept.limit_of(overloaded)
    assert (limit.breaks_first.quota, limit.held_up_by) == (DOCUMENTED["table_writes_at_first"], ())
    assert limit.breaks_at == pytest.approx(50, rel=0.15)
    assert (overloaded.keeps_up, limit.keeps_up) == (False, True)
    told = overloaded.explain(limit)
    assert f"breaks first  at about {limit.breaks_at:.1f} objects a second: DynamoDB" in told
    assert "write units a second that you expect: 8" in told
    calm = sweep(LITE0, [20, 400], quotas=quotas)
    assert calm.limit is calm.limit_of(calm.results[1]) is calm.results[0]


@pytest.mark.parametrize("rate", [0.01, 0.3, 20])
def test_few_objects_that_come_at_uneven_times_keep_up(rate: float) -> None:
    assert all(simulate(LITE0, Arrivals.constant(rate, seconds=3600), seed=seed).keeps_up for seed in range(5))


def test_a_table_on_demand_doubles_its_writes() -> None:
    # Few batches at a time: otherwise, they wait for the table until they time out, and all of them come back.
    quotas = Quotas(table_writes_at_first=40, pipe_batches=10)
    slow = simulate(LITE0, Arrivals.constant(30, seconds=7200), quotas=quotas, warm_up=0, drain=0)
    levels = slow.backlog.values
    fullest = levels.index(max(levels)) * slow.backlog.interval
    assert 1700 < fullest < 1900
    assert not slow.backlog.values[-1] > 0.01 * max(levels)


def test_a_gpu_starts_with_the_first_batch_and_stops_when_it_is_idle() -> None:
    arrivals = Arrivals.bursts(20, burst_seconds=60, pause_seconds=3000, seconds=3060)
    found = simulate(GPU, arrivals, warm_up=0)
    assert (found.peak_gpus, found.gpus.values[-1]) == (1, 0)
    assert GPU.start_seconds - 60 < found.latency.p50 < GPU.start_seconds + 10
    always_on = simulate(replace(GPU, always_on=1), arrivals, warm_up=0)
    assert always_on.latency.p99 < 10
    assert set(always_on.gpus.values) == {1}


def test_objects_that_wait_too_long_for_a_gpu_are_dead() -> None:
    found = simulate(GPU, Arrivals.constant(20, seconds=100), assumptions=Assumptions(max_wait=30), warm_up=0)
    assert found.dead > 0.9 * found.arrived
    assert "dead" in found.explain()


def test_fewer_steps_are_quicker() -> None:
    shapes = [PipelineShape(direct=True), PipelineShape(fused=True), PipelineShape()]
    found = [run(100, shape=shape) for shape in shapes]
    assert found[0].latency.mean < found[1].latency.mean < found[2].latency.mean
    assert found[0].peak_environments <= found[2].peak_environments
    uses = [{use.quota.field for use in result.quotas} for result in found]
    assert "mapping_batches" in uses[0]
    assert "eventbridge_invocations" not in uses[0]
    assert "s3_puts" not in uses[1] | uses[0]
    assert {"pipe_batches", "s3_puts"} <= uses[2]


def test_gpus_that_are_too_few_break_first() -> None:
    slow = replace(GPU, milliseconds=40)
    found = simulate(slow, Arrivals.constant(100, seconds=1800), warm_up=600)
    assert found.breaks_first.quota is DOCUMENTED["gpus"]
    assert found.breaks_at == pytest.approx(2 / 0.04, rel=0.1)
    assert found.dead
    enough = simulate(slow, Arrivals.constant(10, seconds=1800), warm_up=600)
    assert (enough.dead, enough.held_up_by) == (0, ())
    assert enough.breaks_at == pytest.approx(2 / 0.04, rel=0.1)


def test_the_curve_of_a_day_has_as_many_objects_and_its_peak_at_noon() -> None:
    found = simulate(LITE0, Arrivals.day(10_000), warm_up=0)
    assert found.arrived == pytest.approx(10_000, rel=0.05)
    levels = found.in_system.values
    noon, night = (sum(levels[at - 15 : at + 15]) for at in (len(levels) // 2, 15))
    assert noon > 4 * night
    assert found.estimate.traffic.items_per_month == pytest.approx(10_000 * 730 / 24)


def test_the_documented_quotas_have_pages_of_aws() -> None:
    assert set(vars(Quotas())) == set(DOCUMENTED)
    for quota in DOCUMENTED.values():
        assert quota.page.startswith("https://docs.aws.amazon.com/")
        assert vars(Quotas())[quota.field] == quota.default


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Quotas(concurrent_executions=0), "concurrent_executions must be above 0"),
        (lambda: Arrivals.constant(0), "per_second must be above 0"),
        (lambda: Arrivals(per_second=1, shape="steps"), "shape must be"),
        (lambda: Assumptions(failures=2), "failures must be a share"),
        (lambda: Assumptions(distribution="normal"), "distribution must be"),
        (lambda: simulate(LITE0, Arrivals.constant(1), warm_up=900), "warm_up must be shorter"),
        (lambda: simulate(GPU, Arrivals.constant(1), shape=PipelineShape(fused=True)), "shape must not be fused"),
    ],
)
def test_what_cannot_be_simulated_fails(make: object, named: str) -> None:
    with pytest.raises(PropError, match=named):
        make()
