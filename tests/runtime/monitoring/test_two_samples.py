"""The test of two samples, against scipy's figures and against windows that are drawn without drift."""

from __future__ import annotations

import numpy as np
import pytest
import scipy  # which imports `stats` when it is used
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.monitoring.two_samples import (
    LEAST_EXPECTED,
    _moments,
    _upper_gamma,
    chi_squared,
    holm,
    merged,
    p_value,
    stability_index,
)

pytestmark = pytest.mark.xdist_group("scipy")  # one process imports it: that takes seconds

COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5000)), min_size=2, max_size=12).filter(
    lambda bins: all(sum(column) for column in zip(*bins, strict=True))
)


@given(COUNTS)
def test_the_statistic_is_that_of_scipy(bins: list[tuple[int, int]]) -> None:
    bins = [pair for pair in bins if sum(pair)]
    assert chi_squared(bins) == pytest.approx(
        scipy.stats.chi2_contingency(np.array(bins), correction=False).statistic, rel=1e-9, abs=1e-9
    )


@given(st.floats(0.05, 500), st.floats(0, 2000))
def test_the_tail_of_the_gamma_distribution_is_that_of_scipy(shape: float, value: float) -> None:
    assert _upper_gamma(shape, value) == pytest.approx(scipy.stats.gamma.sf(value, shape), rel=1e-6, abs=1e-12)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_two_bins_have_the_exact_probability_of_scipy(a: int, b: int, c: int, d: int) -> None:
    assert p_value([(a, b), (c, d)]) == pytest.approx(
        max(1e-300, scipy.stats.fisher_exact(np.array([[a, b], [c, d]])).pvalue), rel=1e-6
    )


def test_mean_and_variance_are_those_of_random_tables() -> None:
    bins = [(2, 3), (2, 10), (9, 40), (5, 20), (2, 7)]
    window, baseline = (np.array(column) for column in zip(*bins, strict=True))
    both = window + baseline
    draws = np.random.default_rng(1).multivariate_hypergeometric(both, window.sum(), 100_000)
    share = window.sum() / both.sum()
    statistic = ((draws - both * share) ** 2 / (both * share * (1 - share))).sum(axis=1)
    assert _moments(bins) == pytest.approx((statistic.mean(), statistic.var()), rel=0.02)


def test_of_large_samples_the_probability_is_that_of_the_chi_squared_distribution() -> None:
    bins = [(10_100, 50_000), (9_900, 50_300), (10_050, 49_800)]
    assert p_value(bins) == pytest.approx(scipy.stats.chi2_contingency(np.array(bins)).pvalue, rel=1e-3)


@given(COUNTS)
def test_merged_bins_keep_all_counts_and_let_expect_enough(bins: list[tuple[int, int]]) -> None:
    window, baseline = zip(*bins, strict=True)
    found = merged(window, baseline)
    n, m = sum(window), sum(baseline)
    if found:
        assert [sum(column) for column in zip(*found, strict=True)] == [n, m]
    assert all(sum(pair) * min(n, m) / (n + m) >= LEAST_EXPECTED for pair in found)


def test_samples_that_are_too_small_tell_nothing() -> None:
    assert p_value(merged([3, 0], [0, 100])) == 1
    assert p_value(merged([0, 0], [50, 50])) == 1
    assert p_value([]) == 1


def test_the_stability_index_is_that_of_its_definition() -> None:
    window, baseline = np.array([30, 50, 20]), np.array([200, 200, 600])
    shares, expected = window / window.sum(), baseline / baseline.sum()
    index = float(np.sum((shares - expected) * np.log(shares / expected)))
    assert stability_index(window.tolist(), baseline.tolist()) == pytest.approx(index, rel=1e-12)
    # Evidently 0.7.23: calculations.stattests.psi
    assert stability_index([90, 110, 200, 25, 75], [120, 300, 280, 0, 300]) == pytest.approx(0.506022315218704)
    assert stability_index([10, 0], [5, 5]) == pytest.approx(0.5 * np.log(2) + (1e-4 - 0.5) * np.log(1e-4 / 0.5))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_holm_rejects_at_least_what_bonferroni_does(p_values: list[float]) -> None:
    rejected = holm(p_values, 0.05)
    assert any(rejected) == (min(p_values) <= 0.05 / len(p_values))
    assert all(one for one, p in zip(rejected, p_values, strict=True) if p <= 0.05 / len(p_values))


@pytest.mark.parametrize(("baseline_size", "window_size"), [(100, 60), (500, 500), (2000, 60), (500, 5000)])
def test_windows_without_drift_are_as_rarely_unlikely_as_stated(baseline_size: int, window_size: int) -> None:
    """`python -m benchmarks drift` draws many more."""
    random = np.random.default_rng(baseline_size + window_size)
    shares = random.dirichlet(np.full(10, 5.0))
    windows, level = 1000, 0.05
    hits = sum(
        p_value(
            merged(random.multinomial(window_size, shares).tolist(), random.multinomial(baseline_size, shares).tolist())
        )
        <= level
        for _ in range(windows)
    )
    assert hits <= scipy.stats.binom.ppf(0.9999, windows, level)
