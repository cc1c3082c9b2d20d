"""A candidate is judged in each window: a bad one is taken back, and a good one gets everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.e2e.releases.conftest import Releasing

pytestmark = pytest.mark.e2e


def test_a_deployment_begins_the_release(begun: str) -> None:
    assert begun == "deployment"


def test_a_good_candidate_gets_all_objects(releasing: Releasing) -> None:
    rows = releasing.stored("good", 10)
    execution = releasing.begin()
    keys = releasing.put("good", 40)
    releasing.deliver_one_by_one(rows)
    wait_until(lambda: releasing.status().share == 100, releasing.status, every=0.5)
    keys += releasing.put("better", 12)
    assert releasing.ended(execution) == ("SUCCEEDED", None, None)
    status = releasing.status()
    assert (status.status, status.share, status.compared) == ("PROMOTED", 100, 0)
    assert [(entry["by"], entry["status"], entry["share"]) for entry in status.history] == [
        ("deployment", "RUNNING", 50),
        ("judge", "RUNNING", 100),
        ("judge", "PROMOTED", 100),
    ]
    assert set(releasing.pipeline.ends(keys).values()) == {"SUCCEEDED"}
    assert releasing.last_line()["CandidateShare"] == 100


@pytest.mark.parametrize(
    ("candidate", "rule", "reason"),
    [
        (
            "wrong",
            "disagreement",
            "the candidate's answers agree too little with the stable model's: top1_agreement 0.",
        ),
        ("nan", "errors", "the candidate fails or rejects objects more often than the stable model: candidate "),
        ("crash", "errors", "the candidate fails or rejects objects more often than the stable model: candidate "),
        (
            "slow",
            "latency",
            "the candidate is slower than the stable model on the same objects: over 1.5 times as long on ",
        ),
    ],
)
def test_a_bad_candidate_is_caught_within_one_window(
    releasing: Releasing, candidate: str, rule: str, reason: str
) -> None:
    if candidate == "slow":
        rows = releasing.stored(candidate, 16)
        releasing.set(share=0, compared=100)
        releasing.deliver_one_by_one(rows)
    else:
        releasing.set(share=0 if candidate == "wrong" else 50, compared=100)
        # A comparison in which the candidate crashes counts once, however many objects it has.
        releasing.pipeline.ends(releasing.put(candidate, 48 if candidate == "crash" else 20, candidate))
    releasing.wait_for_comparisons()
    execution = releasing.begin()
    assert releasing.ended(execution)[:2] == ("FAILED", "ReleaseAborted")
    assert releasing.windows(execution) == 1
    found = releasing.status()
    assert (found.status, found.share, found.compared) == ("ABORTED", 0, 0)
    decision = found.history[-1]
    assert decision["reason"].startswith(reason)
    assert decision["evidence"][rule]["fires"]
    line = releasing.last_line()
    assert (line["decision"], line["reason"], line["CandidateShare"]) == ("abort", decision["reason"], 0)
    assert set(releasing.arms(releasing.put(f"after-{candidate}", 4)).values()) == {"stable"}


def test_an_alarm_aborts_at_once(releasing: Releasing) -> None:
    with releasing.alarm():
        status, error, cause = releasing.ended(releasing.begin())
    assert (status, error) == ("FAILED", "ReleaseAborted")
    assert cause.endswith("is in ALARM")


def test_a_candidate_that_nobody_asks_is_neither_aborted_nor_advanced(releasing: Releasing) -> None:
    execution = releasing.begin()
    wait_until(lambda: releasing.windows(execution) >= 2, lambda: releasing.windows(execution), every=0.5)
    assert (releasing.status().status, releasing.status().share) == ("RUNNING", 50)
    releasing.deployed.abort("enough")
    assert releasing.ended(execution) == ("SUCCEEDED", None, None)  # the judge sees that it is over


def test_a_judge_that_does_not_answer_is_asked_again(releasing: Releasing) -> None:
    with releasing.pipeline.throttled("Judge"):
        execution = releasing.begin()
        wait_until(
            lambda: releasing.failed_judgements(execution), lambda: releasing.pipeline.history(execution), every=0.25
        )
        assert releasing.status().status == "RUNNING"
    with releasing.alarm():
        assert releasing.ended(execution)[1] == "ReleaseAborted"


def test_two_executions_abort_once(releasing: Releasing) -> None:
    with releasing.alarm():
        ends = [releasing.ended(execution)[0] for execution in (releasing.begin(), releasing.begin())]
    assert sorted(ends) == ["FAILED", "SUCCEEDED"]
    assert [entry["status"] for entry in releasing.status().history] == ["RUNNING", "ABORTED"]


def test_an_execution_that_is_stopped_leaves_the_release_to_the_next(releasing: Releasing) -> None:
    releasing.begin()
    releasing.stop()
    assert releasing.status().status == "RUNNING"
    with releasing.alarm():
        assert releasing.ended(releasing.begin(wait=False))[1] == "ReleaseAborted"
    assert [entry["status"] for entry in releasing.status().history] == ["RUNNING", "ABORTED"]


@pytest.mark.parametrize(("guarded", "aborts"), [(True, 1), (False, 2)], ids=["as deployed", "without the condition"])
def test_the_condition_is_what_lets_one_of_two_abort(releasing: Releasing, guarded: bool, aborts: int) -> None:
    """Both have judged before either writes: the writes are those of the definition."""
    releasing.begin(wait=True)
    writes = [releasing.write("Abort", step=0, guarded=guarded) for _ in range(2)]
    assert writes.count(True) == aborts
    assert [entry["status"] for entry in releasing.status().history].count("ABORTED") == aborts
