"""Which of the candidates ships."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.constructs.model.graphs import cnn, feed, prepared

from cdk_inference.model import Auto, DynamicInt8, Float32, Metric, StaticInt8
from cdk_inference.model.building.evaluation import measure
from cdk_inference.model.building.evaluation.measure import CONFIDENCE, TIE, Timing, interval, is_clear
from cdk_inference.model.building.search.search import SIZE_TIE, choose, search
from cdk_inference.model.building.search.trials import Trial

if TYPE_CHECKING:
    from pathlib import Path

METRIC = Metric("cosine", 1.0, 1.0, 0.95, 10)


def trial(folder: Path, name: str, speedup: float | tuple[float, float], size: int) -> Trial:
    """Return a trial whose speedup is known exactly, or to lie between two numbers."""
    low, high = speedup if isinstance(speedup, tuple) else (speedup, speedup)
    made = folder / name
    made.mkdir()
    (made / "model.onnx").write_bytes(b"0" * size)
    precision = Float32() if name == "float32" else DynamicInt8(keep_float=(name,))
    middle = (low + high) / 2
    return Trial(precision, made, metric=METRIC, latency=Timing(middle, 1.0, middle, low, high))


def test_the_quickest_wins_and_among_equals_the_smallest(tmp_path: Path) -> None:
    slow = trial(tmp_path, "slow", 1.5, 10)
    quick = trial(tmp_path, "quick", 2.0, 40)
    quick_too = trial(tmp_path, "quick-too", 1.95, 30)
    assert choose([slow, quick, quick_too], "latency") is quick_too
    assert choose([slow, quick], "latency") is quick


def test_among_what_is_as_quick_and_as_small_the_most_like_float32_wins(tmp_path: Path) -> None:
    near = replace(trial(tmp_path, "near", 1.98, 1001), cosine=0.99)
    far = replace(trial(tmp_path, "far", 2.0, 1000), cosine=0.98)
    assert choose([far, near], "latency") is choose([far, near], "size") is near


def test_the_smallest_wins_and_among_equals_the_quickest(tmp_path: Path) -> None:
    small = trial(tmp_path, "small", 1.1, 1000)
    small_too = trial(tmp_path, "small-too", 1.4, 1040)
    large = trial(tmp_path, "large", 3.0, 2000)
    assert choose([small, small_too, large], "size") is small_too


@pytest.mark.parametrize("speedup", [1.02, 1.09, (0.95, 1.05), (0.93, 1.73), (0.3, 5.0)])
def test_float32_wins_if_nothing_is_surely_quicker_or_smaller(
    speedup: float | tuple[float, float], tmp_path: Path
) -> None:
    float32 = trial(tmp_path, "float32", 1.0, 1000)
    same = replace(trial(tmp_path, "same", speedup, 980), cosine=1.0)
    for objective in ("latency", "size"):
        assert choose([float32, same], objective) is choose([same, float32], objective) is float32


def test_where_noise_hides_the_speed_the_size_decides(tmp_path: Path) -> None:
    float32 = trial(tmp_path, "float32", 1.0, 1000)
    larger = trial(tmp_path, "larger", (0.8, 2.5), 500)
    smaller = trial(tmp_path, "smaller", (0.7, 1.9), 300)
    assert choose([float32, larger, smaller], "latency") is smaller


def test_a_speed_counts_if_all_its_noise_lies_beyond_that_of_another(tmp_path: Path) -> None:
    float32 = trial(tmp_path, "float32", 1.0, 1000)
    quick = trial(tmp_path, "quick", (1.6, 2.5), 990)
    slower = trial(tmp_path, "slower", (1.0, 1.4), 300)
    assert choose([float32, quick, slower], "latency") is quick


def test_int8_that_is_slower_is_refused_and_the_lock_says_so(tmp_path: Path) -> None:
    """As an LSTM that hears speech may be: a quarter of the size does not make up for it."""
    made = {
        "float32": trial(tmp_path, "float32", 1.0, 1000),
        "dynamic_int8": replace(trial(tmp_path, "dynamic", (0.6, 0.7), 250), precision=DynamicInt8()),
        "static_int8": replace(trial(tmp_path, "static", (0.7, 1.3), 250), precision=StaticInt8(), failure="is deaf"),
    }
    others = [DynamicInt8(), StaticInt8()]
    trials = SimpleNamespace(
        run=lambda precision: made[precision.kind], conversions=SimpleNamespace(candidates=lambda policy: others)
    )
    for objective in ("latency", "size"):
        outcome = search(trials, Auto(objective=objective))
        assert outcome.best.precision == Float32()
        assert [(each.precision.kind, each.status, each.reason) for each in outcome.candidates] == [
            ("float32", "shipped", "nothing that passes is faster, or smaller and as fast"),
            ("dynamic_int8", "slower", "takes 1.54 times as long as float32"),
            ("static_int8", "failed", "is deaf"),
        ]


@pytest.mark.parametrize(
    ("speedup", "slower"),
    [
        ((0.943, 0.947), True),  # magika, weight-only
        ((0.974, 0.997), True),
        ((0.95, 0.999), True),
        ((0.95, 1.01), False),
        ((0.3, 5.0), False),
        ((0.995, 0.999), False),  # the same file next to itself
        ((1.0, 1.0), False),
    ],
)
def test_what_is_slower_beyond_noise_never_ships_for_its_size(
    speedup: tuple[float, float], slower: bool, tmp_path: Path
) -> None:
    made = {
        "float32": trial(tmp_path, "float32", 1.0, 1000),
        "dynamic_int8": replace(trial(tmp_path, "dynamic", speedup, 250), precision=DynamicInt8()),
    }
    trials = SimpleNamespace(
        run=lambda precision: made[precision.kind],
        conversions=SimpleNamespace(candidates=lambda policy: [DynamicInt8()]),
        passes=SimpleNamespace(event=lambda event: None),
    )
    for objective in ("latency", "size"):
        outcome = search(trials, Auto(objective=objective))
        assert outcome.best.precision == (Float32() if slower else DynamicInt8())
        assert outcome.candidates[1].status == ("slower" if slower else "shipped")


@pytest.mark.parametrize(
    ("high", "rounds", "slower", "clear"),
    [(0.97, 8, True, True), (0.97, 7, False, False), (0.97, 3, False, False), (0.9, 3, True, True)],
)
def test_a_few_rounds_of_a_large_model_prove_only_that_it_is_much_slower(
    high: float, rounds: int, slower: bool, clear: bool
) -> None:
    timing = Timing(1.0, 1.0, 0.85, 0.8, high, rounds)
    assert (timing.slower, timing.clear) == (slower, clear)


SPEEDUPS = st.tuples(st.floats(0.2, 10), st.floats(1, 3)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(st.lists(st.tuples(SPEEDUPS, st.integers(1, 1000)), min_size=1, max_size=6), st.integers(1, 1000))
def test_the_winner_is_never_surely_worse_than_another(
    tmp_path_factory: pytest.TempPathFactory, figures: list[tuple[tuple[float, float], int]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("trials")
    float32 = trial(folder, "float32", 1.0, size)
    trials = [float32, *(trial(folder, f"t{i}", speedup, size) for i, (speedup, size) in enumerate(figures))]
    quickest, smallest = choose(trials, "latency"), choose(trials, "size")
    for other in trials:
        assert quickest.latency.high * (1 + TIE) >= other.latency.low
        assert smallest.size <= other.size * (1 + SIZE_TIE)
    # A lossy model ships only if there is something to gain.
    gain = any(t.latency.low > 1 + TIE or t.size * (1 + SIZE_TIE) < size for t in trials)
    assert gain or quickest is smallest is float32


@given(st.integers(0, 2**32), st.floats(0.4, 3.0), st.floats(0.0, 0.5))
@example(0, 1.0, 0.2)
def test_repeated_searches_agree_about_what_is_far_apart(
    tmp_path_factory: pytest.TempPathFactory, seed: int, gain: float, noise: float
) -> None:
    """The same kernels under noise, in as many rounds as a search has: the decision is never that of a coin."""
    draw = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("trials")
    winners = set()
    for turn in range(4):
        rounds = [gain * math.exp(draw.normal(0, noise)) for _ in range(measure.MAX_ROUNDS)]
        (folder / f"{turn}").mkdir()
        float32 = trial(folder / f"{turn}", "float32", 1.0, 1000)
        lossy = trial(folder / f"{turn}", "lossy", interval(rounds), 1000)
        winners.add(type(choose([float32, lossy], "latency").precision))
    if gain < 0.9:
        assert winners == {Float32}
    if gain > (1 + TIE) * math.exp(1.5 * noise):
        assert winners == {DynamicInt8}


def test_every_other_round_begins_with_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two models is faster by 1 ms here, which no ratio shows."""
    rounds: list[list[str]] = []

    def start(model: float, what: str, *, exact: bool) -> tuple[float, str]:
        if not rounds or len(rounds[-1]) == 2:
            rounds.append([])
        rounds[-1].append(what)
        return model, what

    monkeypatch.setattr(measure, "start", start)
    monkeypatch.setattr(measure, "_run", lambda session, sample: session[0] - (session[1] != rounds[-1][0]))
    timing = measure.latency(101.0, 101.0, {"x": np.zeros((1, 4))})  # type: ignore[arg-type]
    assert rounds[:3] == [["float32", "the candidate"], ["the candidate", "float32"], ["float32", "the candidate"]]
    assert (timing.speedup, timing.low, timing.high) == (1.0, 0.99, 1.01)
    assert not timing.slower
    assert measure.latency(200.0, 100.0, {"x": np.zeros((1, 4))}).speedup == pytest.approx(2.0, abs=0.02)  # type: ignore[arg-type]


def test_identical_kernels_are_no_gain(tmp_path: Path) -> None:
    """Really measured, on whatever machine this is."""
    model = prepared(cnn(), tmp_path)
    data = model.SerializeToString()
    timing = measure.latency(data, data, feed(model, batch=1))
    float32 = trial(tmp_path, "float32", 1.0, len(data))
    same = replace(trial(tmp_path, "same", 1.0, len(data)), latency=timing)
    assert choose([float32, same], "latency") is choose([float32, same], "size") is float32


def test_rounds_take_turns_in_which_model_begins_and_keep_apart_which_is_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that runs the second of two models much faster."""
    now, opened = 0.0, []

    class Opened:
        """Takes a time on the clock of the test."""

        def __init__(self, seconds: float, _: str, *, exact: bool) -> None:
            assert not exact
            opened.append(seconds)
            self._seconds = seconds / (1.5 if len(opened) % 2 == 0 else 1)

        def run(self, *_: object) -> None:
            nonlocal now
            now += self._seconds

    monkeypatch.setattr(measure, "start", Opened)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now))
    sample = {"x": np.zeros((1, 1), np.float32)}
    timing = measure.latency(0.3, 0.1, sample, rounds=8)
    assert opened == [0.3, 0.1, 0.1, 0.3] * 4
    assert (timing.low, timing.speedup, timing.high, timing.rounds) == (2.0, 3.25, 4.5, 8)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_interval_holds_the_median_and_its_share_of_the_distribution(gains: list[float]) -> None:
    low, high = interval(gains)
    ordered = sorted(gains)
    assert low <= ordered[len(gains) // 2] <= high or low <= ordered[(len(gains) - 1) // 2] <= high
    below = next(i for i, gain in enumerate(ordered) if gain == low)
    cut = max(0, below)
    # As many values lie outside as leave the confidence: the binomial distribution, counted out.
    inside = sum(math.comb(len(gains), k) for k in range(cut + 1, len(gains) - cut))
    assert cut == 0 or len(set(gains)) < len(gains) or inside >= CONFIDENCE * 2 ** len(gains)


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [
        *((1.2, 3.0, True), (0.995, 1.05, True), (0.995, 0.999, True), (0.5, 0.8, True), (0.9, 0.999, True)),
        *((0.95, 1.05, False), (1.0, 1.2, False), (0.8, 1.0, False), (0.5, 2, False)),
    ],
)
def test_a_ratio_is_clear_if_nothing_else_is_possible(low: float, high: float, clear: bool) -> None:
    assert is_clear(low, high) is clear


def test_measuring_ends_when_the_ratio_is_clear_or_at_a_bound() -> None:
    def rounds(gains: list[float], seconds: float = 0.0) -> int:
        return next(n for n in range(len(gains) + 1) if measure._is_enough(gains[:n], n * seconds, measure.MAX_ROUNDS))

    noisy = [0.7, 1.6] * measure.MAX_ROUNDS
    assert rounds([2.0] * 50) == rounds([1.0] * 50) == measure.MIN_ROUNDS
    assert rounds([0.7, *[2.0] * 50]) == 12  # one outlier is outside the bounds from the twelfth round on
    assert rounds(noisy) == measure.MAX_ROUNDS
    assert rounds(noisy, seconds=10.0) == measure.FEWEST_ROUNDS


def test_a_trial_says_what_it_found(tmp_path: Path) -> None:
    made = trial(tmp_path, "Conv_1", 2.0, 10).candidate("shipped", "")
    assert (made.name, made.speedup, made.size_bytes, made.quality) == ("dynamic int8, Conv_1 in float", 2.0, 10, 1.0)
    failed = Trial(StaticInt8(), failure="no convolution").candidate("error", "no convolution")
    assert (failed.quality, failed.size_bytes, failed.latency_ms) == (None, None, None)
