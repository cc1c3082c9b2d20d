"""Runs of a retraining: one at a time, once for each set of labels, and an end for whatever goes wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.local import aws
from cdk_inference.retraining.cli import app
from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingError
from tests.e2e.retraining.conftest import Session
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.e2e.retraining.conftest import Trainer

pytestmark = pytest.mark.e2e


def outcome(execution: dict[str, Any]) -> str:
    """Return the status that an execution ended with."""
    return str(json.loads(execution["output"])["status"]) if execution["status"] == "SUCCEEDED" else "FAILED"


def outcomes(trainer: Trainer, run: str) -> list[dict[str, Any]]:
    """Return the events for a run."""
    queue = f"{trainer.cloud.endpoint}/000000000000/outcomes"
    details = [json.loads(message["Body"])["detail"] for message in trainer.records.messages(queue)]
    return [detail for detail in details if detail["run"] == run]


def test_without_labels_nothing_is_trained(training: Trainer) -> None:
    assert outcome(training.start()) == "NO_LABELS"
    assert (training.done("train"), training.deployed.status().holder) == ([], None)


def test_enough_labels_start_a_run_that_deploys(training: Trainer) -> None:
    keys = training.scored(3)
    training.label(keys[:2])
    training.at_rest()
    assert training.done("train") == []
    training.label(keys[2:])
    wait_until(lambda: training.done("deploy"), training.executions, every=0.2)
    training.at_rest()
    run = training.last_run()
    assert (run.status, run.by, run.labels) == ("DEPLOYED", "labels", 3)
    assert training.done("deploy") == [{"run": run.run, "order": "good", "version": f"v-{run.run}"}]
    status = training.deployed.status()
    assert (status.accepted, status.new, status.holder) == (3, 0, None)
    (told,) = outcomes(training, run.run)
    assert (told["status"], told["model"], told["version"]) == ("DEPLOYED", "m", run.version)
    # The same labels again, whoever asks, train nothing.
    assert outcome(training.start()) == "KNOWN_LABELS"
    assert len(training.done("train")) == 1


def test_of_two_starts_at_once_one_trains(training: Trainer) -> None:
    training.order(train="wait")
    training.label(training.scored(1))
    first = training.deployed.start()
    wait_until(lambda: training.done("train"), every=0.1)
    assert outcome(training.start()) == "BUSY"
    assert training.deployed.status().holder == first
    training.go()
    assert outcome(training.ended(first)) == "DEPLOYED"
    assert len(training.done("train")) == 1


@pytest.mark.parametrize(("deploy", "status"), [("good", "DEPLOYED"), ("fail", "FAILED")])
def test_labels_that_come_during_a_run_start_the_next(training: Trainer, deploy: str, status: str) -> None:
    training.order(train="wait", deploy=deploy)
    training.label(training.scored(3))
    wait_until(lambda: training.done("train"), every=0.1)
    training.label(training.scored(3))
    training.go()
    wait_until(lambda: len(training.done("deploy")) == 2, training.executions, every=0.2)
    training.at_rest()
    assert [run.status for run in training.deployed.status().runs[-2:]] == [status, status]


def test_labels_that_come_while_a_run_finds_nothing_new_start_the_next(training: Trainer) -> None:
    training.label(training.scored(1))
    assert outcome(training.start()) == "DEPLOYED"
    known = training.last_run()
    training.order()
    keys = training.scored(3)
    with training.paused_after("Select labels") as (machine, wait, go_on):
        first = training.started(machine)
        wait(first)
        before = len(training.executions())
        training.label(keys)
        wait_until(lambda: len(training.executions()) > before, training.executions, every=0.2)
        training.at_rest()
        assert training.deployed.status().holder == first  # they found the lock
        go_on()
        assert outcome(training.ended(first)) == "KNOWN_LABELS"
        wait_until(lambda: training.last_run().status == "DEPLOYED" and training.last_run().run != known.run, every=0.2)
        wait_until(lambda: training.deployed.status().holder is None, every=0.1)
    assert (training.last_run().by, training.deployed.status().new) == ("labels", 0)
    assert len(training.done("train")) == 1


def test_a_model_that_fails_its_gate_is_told_of_and_not_deployed(training: Trainer) -> None:
    training.order(build="refuse")
    training.label(training.scored(1))
    assert outcome(training.start()) == "REFUSED"
    run = training.last_run()
    assert (run.status, run.reason, training.done("deploy")) == ("REFUSED", "it is worse", [])
    (told,) = outcomes(training, run.run)
    assert (told["status"], told["reason"]) == ("REFUSED", "it is worse")
    log = DeployedLog.find(Session(training.cloud), "Faults")
    today = datetime.now(UTC).date()

    def entries() -> list[dict[str, Any]]:
        # It may have been yesterday, and be tomorrow by now.
        found = log.records(today - timedelta(days=1), today + timedelta(days=1), pipeline="Faults/Records")
        return [
            one["detail"] for one in found if one["type"] == "Retraining Outcome" and one["detail"]["run"] == run.run
        ]

    wait_until(entries, every=0.25)
    (entry,) = entries()
    assert (entry["status"], entry["reason"], entry["labels"]) == ("REFUSED", "it is worse", run.labels)
    assert outcome(training.start()) == "KNOWN_LABELS"


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        ({"train": "die"}, "the training failed, see its log: States.TaskFailed"),
        ({"train": "silent"}, "the job must have written weights/"),
        ({"train": "truncated"}, "w.bin must be 33 bytes, as its report says, got 32"),
        ({"train": "stale"}, "execution of the report must be"),
        ({"build": "fail"}, "the build failed, see its log"),
        ({"build": "mismatch"}, "sha256 of the report must be that of the weights"),
        ({"deploy": "fail"}, "the deployment failed, see its log"),
    ],
    ids=lambda value: "-".join(f"{job} {order}" for job, order in value.items()) if isinstance(value, dict) else "",
)
def test_a_job_that_goes_wrong_fails_the_run_and_frees_the_lock(
    training: Trainer, orders: dict[str, str], reason: str
) -> None:
    training.order(**orders)
    training.label(training.scored(1))
    execution = training.start()
    assert execution["status"] == "FAILED"
    assert reason in execution["cause"]
    run = training.last_run()
    assert (run.status, reason in run.reason) == ("FAILED", True)
    assert training.deployed.status().holder is None
    assert [told["status"] for told in outcomes(training, run.run)] == ["FAILED"]


def test_labels_whose_run_failed_are_tried_again(training: Trainer) -> None:
    training.order(train="fail")
    training.label(training.scored(1))
    assert outcome(training.start()) == "FAILED"
    failed = training.last_run()
    training.order()
    assert outcome(training.start()) == "DEPLOYED"
    assert (training.last_run().run, training.last_run().status) == (failed.run, "DEPLOYED")


def test_no_job_may_write_what_judges_it(training: Trainer) -> None:
    training.order(train="forge", build="forge", deploy="forge")
    training.label(training.scored(1))
    assert outcome(training.start()) == "DEPLOYED"
    refused = {job: training.done(job)[0]["refused"] for job in ("train", "build", "deploy")}
    assert refused == {
        "train": ["labels", "label-sets", "builds", "models"],
        "build": ["labels", "label-sets", "weights"],
        "deploy": ["labels", "label-sets", "weights", "builds", "models"],
    }


def test_a_used_budget_trains_nothing_and_is_told_of(training: Trainer) -> None:
    used = training.deployed.status().runs_this_month
    month = f"month#{datetime.now(UTC):%Y-%m}"
    training.set(month, runs={"N": "100"})
    training.label(training.scored(1))
    assert outcome(training.start()) == "OVER_BUDGET"
    run = training.last_run()
    assert (run.status, run.reason) == ("OVER_BUDGET", "all of the 100 runs of this month are used")
    assert [told["status"] for told in outcomes(training, run.run)] == ["OVER_BUDGET"]
    assert training.deployed.status().deferred == f"{datetime.now(UTC):%Y-%m}"
    # The rule of the first day of a month starts what waited, and only then.
    assert outcome(training.start(by="budget")) == "NOT_DEFERRED"
    training.set(month, runs={"N": str(used)})
    training.deferred_in("2000-01")
    assert outcome(training.start(by="budget")) == "DEPLOYED"
    assert (training.last_run().run, training.last_run().by) == (run.run, "budget")
    assert training.deployed.status().deferred is None
    assert outcome(training.start(by="budget")) == "NOT_DEFERRED"


def test_the_lock_of_an_execution_that_died_expires(training: Trainer) -> None:
    training.label(training.scored(1))
    soon = datetime.now(UTC).timestamp() * 1000
    training.set("lock", owner={"S": "an execution that died"}, expires_at={"N": f"{soon + 3_600_000:.0f}"})
    assert outcome(training.start()) == "BUSY"
    training.set("lock", owner={"S": "an execution that died"}, expires_at={"N": f"{soon - 1:.0f}"})
    assert outcome(training.start()) == "DEPLOYED"
    assert training.deployed.status().holder is None


def test_an_execution_whose_lock_expired_does_not_release_that_of_another(training: Trainer) -> None:
    training.order(train="wait")
    training.label(training.scored(1))
    first = training.deployed.start()
    wait_until(lambda: training.done("train"), every=0.1)
    later = datetime.now(UTC).timestamp() * 1000 + 3_600_000
    training.set("lock", owner={"S": "another"}, expires_at={"N": f"{later:.0f}"})
    training.go()
    assert outcome(training.ended(first)) == "DEPLOYED"
    assert training.deployed.status().holder == "another"
    training.set("lock", owner={"S": "another"}, expires_at={"N": "0"})


def test_wrong_labels_are_refused_with_the_reason(training: Trainer) -> None:
    (key,) = training.scored(1)
    before = training.deployed.status().accepted
    good = {"key": key, "label": "low", "by": "a test"}
    wrong = [
        good | {"label": "huge"},
        good | {"key": "never scored"},
        good | {"version_id": "another"},
        good | {"by": ""},
        "no object",
    ]
    taken = training.deployed.label([good, good, *wrong])  # type: ignore[list-item]
    assert (taken.accepted, taken.unchanged) == (1, 1)
    assert [one["label"] for one in taken.rejected] == wrong
    assert [one["reason"].split(" must")[0] for one in taken.rejected] == [
        "label",
        "key",
        "version_id",
        "by",
        "a label",
    ]
    assert training.deployed.status().accepted == before + 1


def test_labels_in_a_file_are_taken_once_and_those_refused_are_written_down(training: Trainer) -> None:
    keys = training.scored(2)
    before = training.deployed.status().accepted
    lines = [json.dumps({"key": key, "label": "high", "by": "a test"}) for key in keys]
    s3, bucket = training.cloud.client("s3"), training.deployed.bucket
    for name in ("one", "again"):
        s3.put_object(Bucket=bucket, Key=f"labels/{name}.jsonl", Body="\n".join([*lines, "{", ""]).encode())
    for name in ("one", "again"):
        rejected = f"rejected-labels/{name}.jsonl"
        wait_until(lambda name=rejected: s3.list_objects_v2(Bucket=bucket, Prefix=name)["KeyCount"], every=0.2)
        (line,) = s3.get_object(Bucket=bucket, Key=rejected)["Body"].read().splitlines()
        assert json.loads(line) == {"label": "{", "reason": "a label must be a JSON object, got '{'"}
    assert training.deployed.status().accepted == before + 2


def test_the_command_line_labels_starts_and_shows(training: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment(training.cloud.endpoint, base={}).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(arguments))
        return done.exit_code, done.output

    (key,) = training.scored(1)
    assert run("label", "Faults", key, "huge", "--by", "Jane")[0] == 1
    assert run("label", "Faults", key, "low", "--by", "Jane") == (0, "accepted\n")
    assert run("label", "Faults", key, "low", "--by", "Jane") == (0, "it has this label already\n")
    training.order(train="fail")
    code, execution = run("start", "Faults")
    training.ended(execution.strip())
    code, shown = run("status", "Faults")
    assert (code, "no run goes on" in shown, "FAILED" in shown) == (1, True, True)
    training.order()
    training.start()
    code, shown = run("status", "Faults", "--json")
    assert (code, json.loads(shown)["runs"][-1]["status"]) == (0, "DEPLOYED")
    with pytest.raises(RetrainingError, match="pipeline must be one of Faults/Records, got 'Faults/Another'"):
        DeployedRetraining.find(Session(training.cloud), "Faults", "Faults/Another")
    assert run("train", "--weights", "w.bin")[0] == 2


def test_whoever_may_label_may_do_nothing_else(training: Trainer) -> None:
    endpoint, bucket = training.cloud.endpoint, training.deployed.bucket
    sts = training.cloud.client("sts")
    assumed = sts.assume_role(RoleArn=f"arn:aws:iam::{aws.ACCOUNT}:role/labeller", RoleSessionName="test")
    clients = aws.role_clients(endpoint, assumed["Credentials"], ["s3", "dynamodb", "stepfunctions"])
    clients["s3"].put_object(Bucket=bucket, Key="labels/of-a-person.jsonl", Body=b"\n")
    denied = [
        lambda: clients["s3"].put_object(Bucket=bucket, Key="weights/w.bin", Body=b""),
        lambda: clients["s3"].put_object(Bucket=bucket, Key="label-sets/l.jsonl", Body=b""),
        lambda: clients["stepfunctions"].start_execution(stateMachineArn=training.deployed.machine),
    ]
    for call in denied:
        with pytest.raises(ClientError, match="AccessDenied"):
            call()
