"""The decisions that follow from counts: abort, advance, hold or end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.releases.judgement import Plan, Records, judge, share_after

ALARM = {"rule": "alarm", "name": "Alarm"}
PLAN = Plan(
    steps=[5, 25, 100],
    bake_ms=1000,
    rules=[
        {"rule": "errors", "times": 1.5},
        {"rule": "latency", "times": 2.0},
        {"rule": "disagreement", "metric": "top1_agreement", "agreement": 0.95, "min_confidence": 0.0},
    ],
    confidence=0.99,
    min_samples=20,
)
GOOD = {
    "step-0": {"stable_ok": 950.0, "stable_errors": 10.0, "candidate_ok": 50.0, "candidate_errors": 1.0},
    "pairs": {"objects": 100.0, "answered": 100.0, "disagreement": 3.0, "timed": 30.0, "slow": 2.0},
}


def records(**counts: dict[str, float]) -> Records:
    return Records("RUNNING", 0, 10_000, GOOD | {name.replace("_", "-"): count for name, count in counts.items()})


def decided(records: Records, plan: Plan = PLAN, now: float = 11_000, **alarms: str) -> tuple[str, str]:
    said = judge(plan, records, alarms, now=now)
    return said["decision"], said["reason"]


def test_a_good_candidate_advances_once_its_step_has_baked() -> None:
    assert decided(records()) == ("advance", "nothing speaks against the candidate after 51 results")
    assert decided(records(), now=10_400) == ("hold", "the step bakes for 1 more seconds")


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"step_0": {"stable_ok": 950.0, "candidate_errors": 20.0, "candidate_ok": 31.0}}, "the candidate fails"),
        ({"pairs": {"objects": 40.0, "candidate_errors": 30.0}}, "the candidate fails"),
        ({"pairs": {"timed": 30.0, "slow": 28.0}}, "the candidate is slower"),
        ({"pairs": {"answered": 60.0, "disagreement": 20.0}}, "the candidate's answers agree too little"),
    ],
)
def test_a_bad_candidate_is_aborted_before_its_step_has_baked(counts: dict[str, Any], reason: str) -> None:
    decision, said = decided(records(**counts), now=10_000)
    assert decision == "abort"
    assert said.startswith(reason)


@pytest.mark.parametrize(
    "counts",
    [
        {"step_0": {"candidate_errors": 19.0}},
        {"pairs": {"timed": 19.0, "slow": 19.0}},
        {"pairs": {"answered": 19.0, "disagreement": 19.0}},
    ],
)
def test_too_few_results_never_abort(counts: dict[str, Any]) -> None:
    one = replace(records(**counts), counts={name.replace("_", "-"): count for name, count in counts.items()})
    assert decided(one)[0] == "hold"


def test_missing_results_neither_abort_nor_advance() -> None:
    decision, reason = decided(replace(records(), counts={}))
    assert (decision, reason) == ("hold", "the candidate has 0 results in this step, 20 are needed")


def test_a_rule_with_too_few_results_does_not_let_the_candidate_go_on() -> None:
    few = GOOD["pairs"] | {"timed": 19.0}
    assert decided(records(pairs=few)) == ("hold", "the rule 'latency' has too few results, 20 are needed")


def test_errors_of_both_arms_do_not_abort() -> None:
    broken = {"stable_ok": 475.0, "stable_errors": 475.0, "candidate_ok": 25.0, "candidate_errors": 25.0}
    assert decided(records(step_0=broken))[0] == "advance"


def test_errors_that_arrive_late_for_an_earlier_step_abort_too() -> None:
    late = {"step-0": {"stable_ok": 950.0, "candidate_errors": 20.0, "candidate_ok": 31.0}}
    later = {"step-1": {"stable_ok": 75.0, "candidate_ok": 25.0}}
    assert decided(replace(records(), step=1, counts={"pairs": GOOD["pairs"], **late, **later}))[0] == "abort"
    assert decided(replace(records(), step=1, counts={**GOOD, **later}))[0] == "advance"


def test_late_results_of_the_stable_model_rarely_abort_a_candidate_that_is_as_good() -> None:
    """The stable model's results for each second batch come five batches later than the candidate's."""
    plan = replace(PLAN, steps=[25, 100], rules=[{"rule": "errors", "times": 1.0}], confidence=0.95)
    random = np.random.default_rng(3)
    aborted = 0
    for _ in range(1000):
        candidate, stable = random.binomial(25, 0.1, 12), random.binomial(75, 0.1, 12)
        for look in range(2, 13, 2):
            there = [batch for batch in range(look) if batch % 2 == 0 or batch + 5 < look]
            bad, good = int(candidate[:look].sum()), int(stable[there].sum())
            counts = {"candidate_errors": bad, "candidate_ok": 25 * look - bad}
            counts |= {"stable_errors": good, "stable_ok": 75 * len(there) - good}
            if decided(records(step_0={name: float(count) for name, count in counts.items()}), plan)[0] == "abort":
                aborted += 1
                break
    assert aborted / 1000 <= 1 - plan.confidence


def test_an_alarm_aborts_and_an_unknown_one_holds() -> None:
    plan = replace(PLAN, rules=[*PLAN.rules, ALARM])
    assert decided(records(), plan, Alarm="OK")[0] == "advance"
    assert decided(records(), plan, Alarm="INSUFFICIENT_DATA")[0] == "advance"
    assert decided(replace(records(), counts={}), plan, Alarm="ALARM") == ("abort", "the alarm Alarm is in ALARM")
    assert decided(records(), plan, Other="OK") == ("hold", "the alarm Alarm does not exist")


@pytest.mark.parametrize("status", ["", "ABORTED", "PROMOTED"])
def test_what_is_over_stays_so(status: str) -> None:
    assert decided(replace(records(), status=status))[0] == "end"


def test_a_shadow_never_advances() -> None:
    assert decided(records(), replace(PLAN, steps=[])) == ("hold", "a shadow has no steps")


def test_the_next_step_needs_results_of_its_own() -> None:
    assert decided(replace(records(), step=1))[0] == "hold"


@pytest.mark.parametrize(
    ("step", "decision", "share"), [(0, "hold", 5), (0, "advance", 25), (2, "advance", 100), (1, "abort", 0)]
)
def test_the_share_that_is_shown_is_the_one_after_the_decision(step: int, decision: str, share: float) -> None:
    running = replace(records(), step=step, share=5)
    assert share_after(PLAN, running, decision) == share
    assert share_after(replace(PLAN, steps=[]), running, decision) is None


@given(
    counts=st.dictionaries(
        st.sampled_from(["stable_ok", "stable_errors", "candidate_ok", "candidate_errors"]), st.integers(0, 10_000)
    ),
    step=st.integers(0, 2),
    now=st.floats(-1e15, 1e15),
)
def test_any_counts_and_any_clock_give_a_decision(counts: dict[str, int], step: int, now: float) -> None:
    said = judge(PLAN, Records("RUNNING", step, 0, {f"step-{step}": counts}), {}, now=now)
    assert said["decision"] in {"abort", "advance", "hold"}
    assert said["step"] == step
