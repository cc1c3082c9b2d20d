"""Memory sizes: what a model needs, what is worth its price, and the warning."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from aws_cdk import App, Stack, Token
from aws_cdk.assertions import Annotations, Match
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.costs.memory import SIZES, choices, least_memory, recommend, warn_of_memory
from cdk_inference.costs.prices import Prices
from cdk_inference.errors import PropError
from cdk_inference.model.records.manifest import Measured

MEASURED = Measured("a cpu", 20.0, 10.0, 2.0, 200.0, 80.0, 100.0, {"1": 10.0, "2": 6.0})


def test_least_memory_is_the_larger_peak_with_headroom() -> None:
    assert least_memory(MEASURED) == 184  # 100 MB are 95.4 MiB; times 1.25, and 64
    assert least_memory(replace(MEASURED, batch_peak_mb=0.0)) == 160  # not measured: that of one item


def test_times_follow_shares_of_a_vcpu_then_the_measured_curve_then_amdahls_law() -> None:
    found = {each.memory_size: each for each in choices(MEASURED, sizes=(884, 1769, 3072, 3538, 7076))}
    assert found[884].milliseconds == pytest.approx(20.0, rel=2e-3)  # half a vCPU
    assert found[1769].milliseconds == 10.0
    assert found[3538].milliseconds == 6.0
    assert found[3072].milliseconds == pytest.approx(6.0 * 2 / (3072 / 1769), rel=1e-3)  # two threads on less than two
    assert found[7076].milliseconds == pytest.approx(10.0 * (0.2 + 0.8 / 4))  # 1 and 2 threads show 80 % parallel
    assert [found[size].measured for size in (1769, 3538, 7076)] == [True, True, False]


def test_price_is_memory_times_duration() -> None:
    (one,) = choices(MEASURED, sizes=(1769,), architecture="arm64", prices=Prices(lambda_arm64=10.0))
    assert one.usd_per_million == pytest.approx(10.0 * 0.010 * 1769 / 1024, abs=1e-4)
    (other,) = choices(MEASURED, sizes=(1769,), architecture="x86_64")
    assert other.usd_per_million > one.usd_per_million


@given(
    one=st.floats(0.01, 5000),
    gains=st.lists(st.floats(0.4, 1.1), max_size=5),
    peak=st.floats(30, 2000),
)
def test_recommendation_is_enough_and_nothing_beats_it(one: float, gains: list[float], peak: float) -> None:
    curve = {"1": one}
    for index, gain in enumerate(gains):
        curve[str(index + 2)] = curve[str(index + 1)] * gain
    measured = replace(MEASURED, deployed_ms=one, threads_ms=curve, deployed_peak_mb=peak, batch_peak_mb=peak)
    found = choices(measured)
    best = recommend(found)
    assert best.memory_size >= least_memory(measured)
    assert best.memory_size in SIZES
    assert best.measured
    assert all(
        each.usd_per_million * each.milliseconds >= best.usd_per_million * best.milliseconds
        for each in found
        if each.measured
    )
    limit = min(each.milliseconds for each in found) * 2
    quick = recommend(found, max_latency_ms=limit)
    assert quick.milliseconds <= limit
    assert all(e.usd_per_million >= quick.usd_per_million for e in found if e.milliseconds <= limit)


def test_model_without_a_curve_scales_no_further_than_one_thread() -> None:
    found = choices(replace(MEASURED, threads_ms={}), sizes=(1769, 3538))
    assert [each.milliseconds for each in found] == [10.0, 10.0]
    assert recommend(found).memory_size == 1769


def test_target_that_no_size_reaches_fails() -> None:
    with pytest.raises(PropError, match=r"max_latency_ms must be at least .*, the latency with \d+ MiB, got 0.1"):
        recommend(choices(MEASURED), max_latency_ms=0.1)


def test_model_that_needs_more_than_all_sizes_fails() -> None:
    with pytest.raises(PropError, match=r"sizes must include one of at least 12567 MiB, .* got at most 10240 MiB"):
        choices(replace(MEASURED, batch_peak_mb=10_487.5))


def warned(memory_size: float, measured: Measured | None = MEASURED) -> bool:
    stack = Stack(App(), "Stack")
    model = SimpleNamespace(manifest=SimpleNamespace(name="tiny", measured=measured))
    warn_of_memory(stack, model, memory_size)
    text = Match.string_like_regexp(r"memory_size is 128 MiB, and tiny needs about 184: its peak was 100 MB")
    return bool(Annotations.from_stack(stack).find_warning("*", text))


def test_too_little_memory_is_warned_of_at_synth() -> None:
    assert warned(128)


@pytest.mark.parametrize(
    ("memory_size", "measured"),
    [(184, MEASURED), (1769, MEASURED), (128, None), (Token.as_number({"Ref": "Memory"}), MEASURED)],
    ids=["just enough", "enough", "not measured", "token"],
)
def test_nothing_is_said_of_enough_or_of_what_is_not_known(memory_size: float, measured: Measured | None) -> None:
    assert not warned(memory_size, measured)
