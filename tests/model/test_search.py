"""Which of the candidates ships."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.model import DynamicInt8, Float32, Metric, StaticInt8
from cdk_inference.model.build.search import LATENCY_TIE, SIZE_TIE, choose
from cdk_inference.model.build.trials import Trial

if TYPE_CHECKING:
    from pathlib import Path

METRIC = Metric("cosine", 1.0, 1.0, 0.95, 10)


def trial(folder: Path, name: str, speedup: float, size: int) -> Trial:
    file = folder / name
    file.write_bytes(b"0" * size)
    precision = Float32() if name == "float32" else DynamicInt8(keep_float=(name,))
    return Trial(precision, file, metric=METRIC, latency=(speedup, 1.0, speedup))


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


def test_float32_wins_if_nothing_is_quicker_or_smaller(tmp_path: Path) -> None:
    float32 = trial(tmp_path, "float32", 1.0, 40)
    larger = trial(tmp_path, "larger", 1.02, 50)
    assert choose([float32, larger], "latency") is float32


@given(st.lists(st.tuples(st.floats(1, 10), st.integers(1, 1000)), min_size=1, max_size=6))
def test_the_winner_is_never_much_worse_than_the_best(tmp_path_factory, figures: list[tuple[float, int]]) -> None:
    folder = tmp_path_factory.mktemp("trials")
    trials = [trial(folder, f"t{i}", speedup, size) for i, (speedup, size) in enumerate(figures)]
    assert choose(trials, "latency").speedup >= max(s for s, _ in figures) / (1 + LATENCY_TIE) * (1 - 1e-9)
    assert choose(trials, "size").size <= min(s for _, s in figures) * (1 + SIZE_TIE)


def test_a_trial_says_what_it_found(tmp_path: Path) -> None:
    made = trial(tmp_path, "Conv_1", 2.0, 10).candidate("shipped", "")
    assert (made.name, made.speedup, made.size_bytes, made.quality) == ("dynamic int8, Conv_1 in float", 2.0, 10, 1.0)
    failed = Trial(StaticInt8(), failure="no convolution").candidate("error", "no convolution")
    assert (failed.quality, failed.size_bytes, failed.latency_ms) == (None, None, None)
