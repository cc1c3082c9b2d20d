"""The workflow's own logic, run by the embedded AWS with small functions in the place of the stages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aws_cdk as cdk
import pytest

from cdk_inference.functions import StageFunction
from cdk_inference.packages import ZipPackage
from cdk_inference.workflow import FusedLeg, InferenceWorkflow, Leg

from .embedded import Embedded, QuickEmulator, definition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

# A message is its own order: "…-kills-infer-…" kills the process that infers, "…-hangs-…" does so slowly.
_STAGE = """
import os
import time

def handler(event, context):
    stage = os.environ["STAGE"]
    if stage == "preprocess":
        messages = event["messages"]
        ids = [m["message_id"] for m in messages]
        good = [i for i, m in enumerate(ids) if "reject" not in m and "early" not in m]
        answer = {
            "items": [{"message_id": m, "note": [1]} for m in ids if "early" not in m],
            "rejected": [{"index": i, "reason": "no"} for i, m in enumerate(ids) if "reject" in m],
            "retry": [m for m in ids if "early" in m],
            "groups": [{"indices": good, "ids": [ids[i] for i in good]}] if good else [],
        }
    elif stage == "infer":
        ids = [m for group in event["groups"] for m in group["ids"]]
        answer = {"groups": event["groups"], "inference": "cpu"}
    elif stage == "score":
        assert event.keys() == {"messages"}, event
        ids = [m["message_id"] for m in event["messages"]]
        answer = {"retry": [m for m in ids if "early" in m or "late" in m]}
    else:
        ids = [item["message_id"] for item in event["items"]]
        assert event["inference"] == ("cpu" if event["groups"] else "none"), event
        answer = {"retry": [m for m in ids if "late" in m]}
    if any(f"hangs-{stage}" in m for m in ids):
        time.sleep(6)
    if any(f"kills-{stage}" in m or f"hangs-{stage}" in m for m in ids):
        os._exit(1)
    return answer
"""


class Express:
    """A workflow in the embedded AWS, once with little and once with all the time that there is; and fused."""

    def __init__(self, embedded: Embedded) -> None:
        self.client = embedded.client
        for stage in ("preprocess", "infer", "postprocess", "score"):
            embedded.function(stage, _STAGE, STAGE=stage)
        self._machines = {
            (seconds, fused): embedded.machine(
                f"workflow-{seconds}{'-fused' * fused}", _definition(seconds, fused=fused), "EXPRESS"
            )
            for seconds, fused in ((24, False), (300, False), (300, True))
        }

    def run(self, *ids: str, seconds: int = 300, fused: bool = False) -> list[str]:
        """Return the ids of the messages that the workflow reports as failed, given so much time."""
        answer = self.client("stepfunctions").start_sync_execution(
            stateMachineArn=self._machines[seconds, fused],
            input=json.dumps([{"message_id": i, "time": "2026-01-01T00:00:00Z", "detail": {}} for i in ids]),
        )
        assert answer["status"] == "SUCCEEDED", answer
        failures = json.loads(answer["output"])["batchItemFailures"]
        assert all(set(failure) == {"itemIdentifier"} for failure in failures)
        return [failure["itemIdentifier"] for failure in failures]


def _definition(seconds: int, *, fused: bool) -> str:
    """Synthesize the workflow's definition, with the names of the small functions in it."""
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(app, "Stack")

    def stage(name: str) -> StageFunction:
        return StageFunction(
            stack,
            name,
            package=ZipPackage("stage.handler", "postprocess"),
            environment={},
            description=name,
            memory_size=128,
            timeout=cdk.Duration.seconds(4),
        )

    leg = (
        FusedLeg(score=stage("score"))
        if fused
        else Leg(preprocess=stage("preprocess"), inference=stage("infer"), postprocess=stage("postprocess"))
    )
    workflow = InferenceWorkflow(
        stack,
        "Workflow",
        legs=[leg],
        timeout=cdk.Duration.seconds(seconds),
    )
    return definition(stack, workflow.state_machine)


@pytest.fixture(scope="module")
def stack() -> Iterator[Express]:
    with QuickEmulator() as emulator:
        yield Express(Embedded(emulator))


@pytest.fixture
def run(stack: Express) -> Callable[..., list[str]]:
    return stack.run


def test_a_good_batch_has_no_failures(run):
    assert run("a", "b", "c") == []


def test_a_batch_of_one_has_no_failures(run):
    assert run("a") == []


def test_a_batch_in_which_all_are_rejected_skips_inference(run):
    assert run("reject-1", "reject-2") == []


@pytest.mark.parametrize("stage", ["preprocess", "infer", "postprocess"])
def test_only_the_message_that_kills_its_process_fails(run, stage):
    ids = [f"good-{i}" for i in range(31)]
    ids.insert(13, f"kills-{stage}")
    assert run(*ids) == [f"kills-{stage}"]


def test_two_killers_in_a_batch_both_fail_and_nothing_else(run):
    assert sorted(run("kills-infer-1", "a", "b", "c", "kills-postprocess-2")) == [
        "kills-infer-1",
        "kills-postprocess-2",
    ]


def test_a_killer_alone_fails(run):
    assert run("kills-infer") == ["kills-infer"]


def test_what_is_left_when_time_runs_short_fails_and_what_is_done_stays_done(run):
    ids = ["a", "b", "c", "d", "e", "hangs-preprocess", "g", "h"]
    # After 12 of 24 seconds nothing new is begun: by then, the first half is done, and the second is to be split.
    assert sorted(run(*ids, seconds=24)) == sorted(ids[4:])


def test_what_the_stages_ask_to_retry_fails(run):
    assert sorted(run("early-1", "a", "late-1", "b")) == ["early-1", "late-1"]


def test_all_retried_early_fails_each(run):
    assert sorted(run("early-1", "early-2")) == ["early-1", "early-2"]


@pytest.mark.parametrize("stage", ["preprocess", "infer", "postprocess"])
def test_a_throttled_function_fails_the_whole_batch(stack, stage):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName=stage, ReservedConcurrentExecutions=0)
    try:
        assert sorted(stack.run("a", "b", "c")) == ["a", "b", "c"]
    finally:
        lambda_.delete_function_concurrency(FunctionName=stage)


def test_what_is_left_of_a_split_batch_fails_when_a_function_is_throttled(stack):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName="infer", ReservedConcurrentExecutions=0)
    try:
        assert sorted(stack.run("a", "kills-preprocess", "b", "c")) == ["a", "b", "c", "kills-preprocess"]
    finally:
        lambda_.delete_function_concurrency(FunctionName="infer")


@pytest.mark.parametrize(
    ("ids", "failed"),
    [
        (["a"], []),
        (["a", "b", "c"], []),
        ([*(f"good-{i}" for i in range(13)), "kills-score", *(f"more-{i}" for i in range(18))], ["kills-score"]),
        (["kills-score-1", "a", "b", "early-1", "kills-score-2"], ["early-1", "kills-score-1", "kills-score-2"]),
        (["early-1", "a", "late-1", "b"], ["early-1", "late-1"]),
        (["early-1"], ["early-1"]),
    ],
)
def test_a_fused_workflow_fails_the_same_messages(run, ids, failed):
    assert sorted(run(*ids, fused=True)) == failed


def test_a_throttled_fused_function_fails_the_whole_batch(stack):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName="score", ReservedConcurrentExecutions=0)
    try:
        assert sorted(stack.run("a", "b", "c", fused=True)) == ["a", "b", "c"]
    finally:
        lambda_.delete_function_concurrency(FunctionName="score")
