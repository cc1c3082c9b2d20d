"""Evidence keeps its promise however often somebody looks, and finds what is bad."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.releases.evidence import log_evidence, share_of_errors


@pytest.mark.parametrize("allowed", [0.01, 0.05, 0.5])
def test_a_good_candidate_is_aborted_as_rarely_as_promised_although_each_result_is_looked_at(allowed: float) -> None:
    """The worst case: exactly as many bad results as allowed, and a look after each of 500."""
    runs, looks, alpha = 2000, 500, 0.05
    bad = np.cumsum(np.random.default_rng(7).random((runs, looks)) < allowed, axis=1)
    highest = np.full(runs, -math.inf)
    table = np.array([[log_evidence(b, max(n, b), allowed) for b in range(looks + 1)] for n in range(0, looks + 1, 10)])
    for look in range(10, looks + 1, 10):
        highest = np.maximum(highest, table[look // 10][bad[:, look - 1]])
    assert np.mean(highest >= math.log(1 / alpha)) <= alpha


@given(
    total=st.integers(0, 2000),
    bad=st.floats(0, 1),
    allowed=st.floats(0, 1),
)
def test_evidence_is_a_finite_number_that_grows_with_what_is_bad(total: int, bad: float, allowed: float) -> None:
    found = log_evidence(bad * total, total, allowed)
    assert math.isfinite(found)
    if bad * total + 1 <= total:
        assert log_evidence(bad * total + 1, total, allowed) >= found
    if bad <= allowed:
        assert found <= 1e-9


@given(total=st.integers(1, 12), allowed=st.floats(0.01, 0.99))
def test_the_expected_evidence_is_at_most_one(total: int, allowed: float) -> None:
    """Exactly: over all numbers of bad results, with their probabilities if as many are bad as allowed."""
    expected = sum(
        math.comb(total, bad)
        * allowed**bad
        * (1 - allowed) ** (total - bad)
        * math.exp(log_evidence(bad, total, allowed))
        for bad in range(total + 1)
    )
    assert expected == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("bad", "total", "allowed"),
    [(15, 15, 0.5), (6, 30, 0.02), (40, 400, 0.05), (5, 5, share_of_errors(0.05, 1.5))],
)
def test_what_is_clearly_bad_is_found(bad: int, total: int, allowed: float) -> None:
    assert log_evidence(bad, total, allowed) > math.log(300)


def test_nothing_is_no_evidence() -> None:
    assert log_evidence(0, 0, 0.1) == 0
    assert log_evidence(3, 3, share_of_errors(1, 1.5)) == 0  # with all objects, the candidate makes all errors


def test_more_bad_results_than_results_fail() -> None:
    with pytest.raises(ValueError, match="bad must be from 0 to 2, got 3"):
        log_evidence(3, 2, 0.5)
