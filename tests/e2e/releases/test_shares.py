"""Which model answers which object, and who can change that."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.releases.cli import main
from cdk_inference.releases.deployed import DeployedRelease, ReleaseError
from tests.waiting import wait_until

if TYPE_CHECKING:
    import boto3

    from tests.e2e.releases.conftest import Releasing

pytestmark = pytest.mark.e2e

NAMES = ("Releases", "--pipeline", "Releases/Numbers")


def test_an_object_goes_to_the_arm_that_its_share_says_however_often_it_is_delivered(releasing: Releasing) -> None:
    assert set(releasing.arms(releasing.put("not-begun", 4)).values()) == {"stable"}
    releasing.set(share=50, compared=0)
    recorded = releasing.pipeline.metrics("variant")
    keys = releasing.put("half", 24)
    half = releasing.arms(keys)
    assert set(half.values()) == {"stable", "candidate"}
    of_arms = Counter((arm, "Succeeded") for arm in half.values())
    wait_until(
        lambda: releasing.pipeline.metrics("variant") - recorded == of_arms,
        lambda: releasing.pipeline.metrics("variant") - recorded,
        every=0.5,
    )
    counts = releasing.status().counts["step-0"]
    assert (counts["stable_ok"], counts["candidate_ok"]) == tuple(
        map(list(half.values()).count, ("stable", "candidate"))
    )
    releasing.deliver_again(releasing.pipeline.rows(*keys))
    assert {row["key"]: row["variant"] for row in releasing.pipeline.rows(*keys)} == half  # one row each, as before
    assert releasing.status().counts["step-0"] == counts


def test_an_operator_promotes_and_aborts_by_one_write_each(
    releasing: Releasing, session: boto3.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: str, *options: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["release", command, *NAMES, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    assert "NOT_BEGUN" in run("status")[1]
    assert run("promote")[0] == 0
    assert set(releasing.arms(releasing.put("promoted", 4)).values()) == {"candidate"}
    code, aborted, _ = run("abort", "--reason", "as it was told", "--json")
    said = json.loads(aborted)
    assert (code, said["status"], said["share"], said["history"][-1]["reason"]) == (0, "ABORTED", 0, "as it was told")
    assert set(releasing.arms(releasing.put("aborted", 4)).values()) == {"stable"}
    code, _, error = run("promote")
    assert code == 1
    assert error.startswith("error: release")
    assert run("status")[0] == 1


def test_a_decision_after_the_end_fails(releasing: Releasing) -> None:
    releasing.deployed.abort("first")
    with pytest.raises(ReleaseError, match="must be RUNNING, got ABORTED"):
        releasing.deployed.promote("too late")
    with pytest.raises(ReleaseError, match="got ABORTED"):
        releasing.deployed.abort("again")


def test_a_release_that_is_not_named_fails(releasing: Releasing, session: boto3.Session) -> None:
    for pipeline, message in ((None, "Releases/Numbers, Releases/Shadow, got none"), ("Other", "got 'Other'")):
        with pytest.raises(ReleaseError, match=message):
            DeployedRelease.find(session, "Releases", pipeline)


def test_a_shadow_answers_besides_and_writes_no_row(shadow: Releasing, session: boto3.Session) -> None:
    wait_until(lambda: shadow.status().status == "RUNNING", shadow.status, every=0.25)
    shadow.pipeline.ends(shadow.put("aside", 2, "wrong"))
    shadow.wait_for_comparisons()
    assert shadow.status().counts == {}  # of another route than the one that is released
    keys = shadow.put("shadow", 24, "wrong")
    assert set(shadow.pipeline.ends(keys).values()) == {"SUCCEEDED"}
    rows = shadow.pipeline.rows(*keys)
    assert {(row["route"], row.get("variant")) for row in rows} == {("main", None)}
    assert len(rows) == len(keys)
    wait_until(lambda: shadow.status().status == "ABORTED", shadow.status, every=0.5)
    assert shadow.status().history[-1]["reason"].startswith("the candidate's answers agree too little")
    log, today, day = DeployedLog.find(session, "Releases"), datetime.now(UTC).date(), timedelta(days=1)

    def judged() -> list[dict[str, Any]]:
        records = log.records(today - day, today + day, pipeline="Releases/Shadow")
        found = [one.get("detail", {}).get("decision", {}) for one in records]
        return [decision for decision in found if decision.get("by") == "judge"]

    wait_until(judged, every=0.5)
    assert judged() == [shadow.status().history[-1]]
    assert judged()[0]["evidence"]["disagreement"]["fires"]
    with pytest.raises(ReleaseError, match="release must have steps to be promoted"):
        shadow.deployed.promote("although it never answers")
