"""A batch whose GPU refuses, dies, or comes too late: the workflow's own logic, for real."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aws_cdk as cdk
import pytest
from aws_cdk import aws_stepfunctions as sfn

from cdk_inference import S3Trigger, StageFunction
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.gpu.workflow import GpuWorkflow
from cdk_inference.stages.base import TRANSIENT_ERRORS
from tests.waiting import wait_until

from .embedded import Embedded, Lines, QuickEmulator, definition

if TYPE_CHECKING:
    from pathlib import Path

    from constructs import Construct

pytestmark = pytest.mark.e2e

# A message is its own order. "kills-infer" kills the process that scores it, and "kills-once" does so the first time
# only. "stuck" has a row that cannot be written. "not-ready" is refused a few times, and "never-ready" always. "slow"
# takes longer than the function may.
_INFER = """
import os
import time
from pathlib import Path

def first(name, times=1):
    seen = Path(os.environ["SEEN"], name)
    count = int(seen.read_text()) if seen.exists() else 0
    seen.write_text(str(count + 1))
    return count < times

class NotReadyError(Exception):
    pass

def handler(event, context):
    only = event["only"]
    groups = [
        {
            "indices": [i for i in g["indices"] if i in only],
            "ids": [one for i, one in zip(g["indices"], g["ids"]) if i in only],
        }
        for g in event["groups"]
    ]
    assert sorted(i for g in groups for i in g["indices"]) == sorted(only), event
    ids = [one for g in groups for one in g["ids"]]
    if any("kills-infer" in one or ("kills-once" in one and first(one)) for one in ids):
        os._exit(1)
    for one in ids:
        if "never-ready" in one or ("not-ready" in one and first(one, 3)):
            raise NotReadyError("NotReadyError: no \\"instance\\" yet")
        if "slow" in one and first(one):
            time.sleep(3600)
    return {"groups": groups, "inference": "gpu", "model_version": "m"}
"""
# Rows are kept in a file: the order in which they are written can be looked at.
_POSTPROCESS = """
import json
import os
from pathlib import Path

def handler(event, context):
    only = event["only"]
    ids = [item["message_id"] for item in event["items"]]
    scored = {i for g in event["groups"] for i in g["indices"]}
    failed = {one["index"]: one["reason"] for one in event.get("failed") or []}
    rejected = {one["index"] for one in event["rejected"]}
    retry, bugs = [], []
    counts = {"SUCCEEDED": 0, "REJECTED": 0, "FAILED": 0, "LOST": 0}
    for i in only:
        if "kills-postprocess" in ids[i] and i not in failed:
            os._exit(1)
        if "stuck" in ids[i]:
            retry.append(ids[i])
            continue
        if "bug" in ids[i] and i not in failed:
            bugs.append({"message_id": ids[i], "error": "ValueError", "cause": "a bug"})
            continue
        status = "FAILED" if i in failed else "REJECTED" if i in rejected else "SUCCEEDED" if i in scored else "LOST"
        counts[status] += 1
        row = {"id": ids[i], "status": status, "reason": failed.get(i)}
        row |= {"route": event["route"], "first": event["first"]}
        with Path(os.environ["ROWS"]).open("a") as file:
            file.write(json.dumps(row) + "\\n")
    return {"retry": retry, "failures": bugs, **{name.lower(): count for name, count in counts.items()}}
"""


class Shown:
    """Shows in the output of an execution what it would count."""

    def grant(self, workflow: sfn.StateMachine) -> None:
        """Nothing is called."""

    def finish(self, scope: Construct, then: sfn.IChainable) -> sfn.IChainable:  # noqa: ARG002 - it is the end
        outputs = {name: f"{{% ${name} %}}" for name in ("counted", "ok", "errors")}
        return sfn.Pass.jsonata(scope, "Counted", outputs=outputs)


class Gpu:
    """A workflow for a GPU, with its queues."""

    def __init__(self, embedded: Embedded, seen: Path) -> None:
        self._embedded = embedded
        self.already_exists = embedded.client("stepfunctions").exceptions.ExecutionAlreadyExists
        self._rows = Lines(seen / "rows")
        self._dead = embedded.queue("dead")
        self._count = 0
        embedded.function("infer", _INFER, timeout=4, SEEN=str(seen))
        embedded.function("postprocess", _POSTPROCESS, ROWS=str(self._rows.file))
        self._machines = {
            seconds: embedded.machine(f"gpu-{seconds}", self._definition(seconds), "STANDARD") for seconds in (3, 600)
        }
        self._machines[601] = embedded.machine("gpu-counting", self._definition(601, Shown()), "STANDARD")

    def _definition(self, max_wait: int, outcomes: Shown | None = None) -> str:
        stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")

        def stage(name: str) -> StageFunction:
            return StageFunction(
                stack,
                name,
                package=ZipPackage(handler="stage.handler", runtime_requirements="postprocess"),
                environment={},
                description=name,
                memory_size=128,
                timeout=cdk.Duration.seconds(4),
            )

        inference = stage("infer")
        inference.transient_errors = (*TRANSIENT_ERRORS, "NotReadyError")
        workflow = GpuWorkflow(
            stack,
            "Workflow",
            inference=inference,
            postprocess=stage("postprocess"),
            trigger=S3Trigger(stack, "Trigger"),
            max_wait=cdk.Duration.seconds(max_wait),
            outcomes=outcomes,
        )
        return definition(stack, workflow.state_machine, TriggerDeadLetterQueue=self._dead)

    def start(self, *ids: str, max_wait: int = 600, name: str | None = None, **more: object) -> str:
        """Hand over a batch of items."""
        good = [index for index, one in enumerate(ids) if "reject" not in one]
        items = [
            {
                "message_id": one,
                "bucket": "inbox",
                "key": f"{one}.jpg",
                "version_id": "v1",
                "etag": "e",
                "size": 7,
                "sequencer": "a0",
                "event_time": "2026-01-01T00:00:00Z",
            }
            for one in ids
        ]
        self._count += 1
        request = {
            "items": items,
            "rejected": [{"index": index, "reason": "no"} for index, one in enumerate(ids) if "reject" in one],
            "groups": [{"indices": good, "ids": [ids[index] for index in good]}],
            **more,
        }
        started = self._embedded.client("stepfunctions").start_execution(
            stateMachineArn=self._machines[max_wait], name=name or f"run-{self._count}", input=json.dumps(request)
        )
        return str(started["executionArn"])

    def wait(self, execution: str) -> int:
        """Wait for the end of an execution, and return how many states it entered."""
        states = self._embedded.client("stepfunctions")
        wait_until(
            lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING",
            lambda: states.get_execution_history(executionArn=execution)["events"][-5:],
        )
        found = states.describe_execution(executionArn=execution)
        events = states.get_execution_history(executionArn=execution, maxResults=1000)["events"]
        assert found["status"] == "SUCCEEDED", events[-3:]
        return sum(event["type"].endswith("StateEntered") for event in events)

    def failed(self, execution: str) -> int:
        """Return how many tasks of an execution have failed so far."""
        states = self._embedded.client("stepfunctions")
        events = states.get_execution_history(executionArn=execution, maxResults=1000)["events"]
        return [event["type"] for event in events].count("TaskFailed")

    def output(self, execution: str) -> dict[str, object]:
        """Return the output of an execution that has ended."""
        found = self._embedded.client("stepfunctions").describe_execution(executionArn=execution)
        return dict(json.loads(found["output"]))

    def rows(self) -> dict[str, dict]:
        """Return the rows that were written, by id. A row that is written twice says the same."""
        rows: dict[str, dict] = {}
        for body in self._rows.take():
            row = json.loads(body)
            assert rows.setdefault(row["id"], row) == row
        return rows

    def dead(self) -> list[str]:
        """Return the keys of the events in the dead-letter queue."""
        events = [json.loads(body) for body in self._embedded.messages(self._dead)]
        return sorted(event["detail"]["object"]["key"].removesuffix(".jpg") for event in events)

    def reasons(self) -> dict[str, str]:
        """Take the dead letters, and return their causes by key."""
        letters = self._embedded.letters(self._dead)
        return {
            json.loads(body)["detail"]["object"]["key"].removesuffix(".jpg"): attributes["Cause"]["StringValue"]
            for body, attributes in letters
        }

    def run(self, *ids: str, **options: object) -> tuple[dict[str, str], list[str]]:
        """Return the status by id, and what is in the dead-letter queue."""
        self.wait(self.start(*ids, **options))  # type: ignore[arg-type]
        return {one: row["status"] for one, row in self.rows().items()}, self.dead()

    def refuse(self) -> None:
        self._embedded.client("lambda").put_function_concurrency(FunctionName="infer", ReservedConcurrentExecutions=0)

    def accept(self) -> None:
        self._embedded.client("lambda").delete_function_concurrency(FunctionName="infer")


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    with QuickEmulator() as emulator:
        yield Gpu(Embedded(emulator), tmp_path_factory.mktemp("seen"))


def test_a_good_batch_takes_five_states(gpu):
    states = gpu.wait(gpu.start("a", "b", "reject-c", route="large", first={"a": {"confidence": 0.5}}))
    rows = gpu.rows()
    assert {one: row["status"] for one, row in rows.items()} == {
        "a": "SUCCEEDED",
        "b": "SUCCEEDED",
        "reject-c": "REJECTED",
    }
    assert rows["a"]["route"] == "large"
    assert rows["a"]["first"] == {"a": {"confidence": 0.5}}
    assert gpu.dead() == []
    assert states == 5


def test_what_became_of_a_batch_is_counted_once_for_each_item(gpu):
    execution = gpu.start("a", "b", "kills-infer", "reject", "bug", max_wait=601, counted="step-1")
    gpu.wait(execution)
    assert gpu.output(execution) == {"counted": "step-1", "ok": 2, "errors": 3}
    assert sorted(gpu.rows()) == ["a", "b", "bug", "kills-infer", "reject"]
    assert sorted(gpu.dead()) == ["bug", "kills-infer"]


def test_one_item_alone_works_too(gpu):
    assert gpu.run("a") == ({"a": "SUCCEEDED"}, [])


def test_only_the_item_that_kills_its_invocation_fails_and_its_event_is_kept(gpu):
    ids = [f"good-{i}" for i in range(15)]
    ids.insert(6, "kills-infer")
    ids.insert(9, "reject")
    statuses, dead = gpu.run(*ids)
    assert dead == ["kills-infer"]
    assert statuses.pop("kills-infer") == "FAILED"
    assert statuses.pop("reject") == "REJECTED"
    assert set(statuses.values()) == {"SUCCEEDED"}
    assert len(statuses) == 15


def test_an_item_that_kills_its_storing_fails_alone(gpu):
    statuses, dead = gpu.run("a", "kills-postprocess", "b")
    assert statuses == {"a": "SUCCEEDED", "b": "SUCCEEDED", "kills-postprocess": "FAILED"}
    assert dead == ["kills-postprocess"]


def test_a_lone_item_whose_instance_went_away_is_tried_again(gpu):
    assert gpu.run("kills-once-1") == ({"kills-once-1": "SUCCEEDED"}, [])


def test_an_item_whose_instance_goes_away_twice_fails_with_what_was_said(gpu):
    gpu.wait(gpu.start("kills-infer-3"))
    (row,) = gpu.rows().values()
    assert row["status"] == "FAILED"
    assert row["reason"] == "the invocation for this object died: Runtime.HandlerError: Worker process died"
    assert gpu.dead() == ["kills-infer-3"]


def test_a_gpu_that_is_not_ready_says_nothing_about_the_items(gpu):
    assert gpu.run("a", "not-ready-1", "b") == (dict.fromkeys(["a", "not-ready-1", "b"], "SUCCEEDED"), [])


def test_a_gpu_that_is_never_ready_is_quoted(gpu):
    gpu.wait(gpu.start("never-ready", max_wait=3))
    (row,) = gpu.rows().values()
    assert row["status"] == "FAILED"
    assert row["reason"].endswith('of the hand-over: NotReadyError: no "instance" yet')  # quotes, which JSON escapes
    assert gpu.dead() == ["never-ready"]


def test_an_answer_that_comes_after_the_timeout_is_not_waited_for(gpu):
    assert gpu.run("slow-1", "a") == ({"slow-1": "SUCCEEDED", "a": "SUCCEEDED"}, [])


def test_two_killers_and_a_rejected_item_alone(gpu):
    statuses, dead = gpu.run("kills-infer-1", "reject", "kills-infer-2")
    assert statuses == {"kills-infer-1": "FAILED", "reject": "REJECTED", "kills-infer-2": "FAILED"}
    assert dead == ["kills-infer-1", "kills-infer-2"]


def test_a_gpu_that_refuses_for_a_while_is_waited_for(gpu):
    gpu.refuse()
    try:
        execution = gpu.start("a", "b", "kills-infer")
        wait_until(lambda: gpu.failed(execution) > 2)
    finally:
        gpu.accept()
    gpu.wait(execution)
    assert {one: row["status"] for one, row in gpu.rows().items()} == {
        "a": "SUCCEEDED",
        "b": "SUCCEEDED",
        "kills-infer": "FAILED",
    }
    assert gpu.dead() == ["kills-infer"]


def test_a_gpu_that_never_comes_fails_every_item_with_the_reason_once_the_wait_is_over(gpu):
    gpu.refuse()
    try:
        gpu.wait(gpu.start("a", "b", "reject-c", max_wait=3))
    finally:
        gpu.accept()
    rows = gpu.rows()
    assert {one: row["status"] for one, row in rows.items()} == {"a": "FAILED", "b": "FAILED", "reject-c": "REJECTED"}
    assert rows["a"]["reason"].startswith(
        "no answer within 0.05 min of the hand-over: Lambda.TooManyRequestsException: "
    )
    assert gpu.dead() == ["a", "b"]


def test_what_can_not_be_stored_is_tried_again_and_then_kept(gpu):
    statuses, dead = gpu.run("a", "stuck", "b")
    assert statuses == {"a": "SUCCEEDED", "b": "SUCCEEDED"}
    assert dead == ["stuck"]


def test_what_postprocessing_fails_on_is_buried_with_its_reason(gpu):
    gpu.wait(gpu.start("a", "bug", "b"))
    rows = gpu.rows()
    assert {one: row["status"] for one, row in rows.items()} == {"a": "SUCCEEDED", "b": "SUCCEEDED", "bug": "FAILED"}
    assert rows["bug"]["reason"] == "postprocessing failed: ValueError: a bug"
    assert gpu.reasons() == {"bug": rows["bug"]["reason"]}


def test_a_batch_that_is_handed_over_twice_runs_once(gpu):
    gpu.wait(gpu.start("a", name="same"))
    with pytest.raises(gpu.already_exists):
        gpu.start("a", name="same")
    assert list(gpu.rows()) == ["a"]
