"""The workflow's own logic, run by the embedded AWS with small functions in the place of the stages."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest

from cdk_inference import FusedRoute, InferenceWorkflow, S3Trigger, StagedRoute
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.stages.base import StageFunction

from .embedded import Embedded, QuickEmulator, definition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

TRIES = 3
# A message is its own order: "…-kills-infer-…" kills the process that infers. "…-hangs-…" does so too, and the next
# time only 39 seconds after the first. Preprocessing finds what "kills-preprocess" if it isolates items;
# "kills-both-preprocess" gets through that, too. "refused-infer" is answered with the error that its name ends with.
# "early" and "late" cannot be read or written now. "bug" and "afterwards-bug" fail by themselves. "long" ones take so
# much time that two are left over.
_STAGE = """
import json
import os
import time
from pathlib import Path

def failure(m):
    return {"message_id": m, "error": "Bug", "cause": "a bug in " + m}

def handler(event, context):
    stage = os.environ["STAGE"]
    unfinished = []
    isolate = event.get("isolate")
    if "messages" in event:
        assert event.keys() == {"messages", "isolate"}, event
        ids = [m["message_id"] for m in event["messages"]]
        with Path(os.environ["SEEN"]).open("a") as file:
            file.write(json.dumps([ids, isolate]) + "\\n")
        long = [m for m in ids if "long" in m]
        unfinished = long[:2] if len(long) > 2 else []
        ids = [m for m in ids if m not in unfinished]
    if stage == "preprocess":
        found = [m for m in ids if isolate and "-kills-preprocess" in m]
        ids = [m for m in ids if m not in found]
        kept = [m for m in ids if "early" not in m and not m.startswith("bug")]
        good = [i for i, m in enumerate(kept) if "reject" not in m]
        answer = {
            "items": [{"message_id": m, "note": [1]} for m in kept],
            "rejected": [{"index": i, "reason": "no"} for i, m in enumerate(kept) if "reject" in m],
            "retry": [m for m in ids if "early" in m],
            "failed": [failure(m) for m in ids if m.startswith("bug")] + [failure(m) for m in found],
            "unfinished": unfinished,
            "groups": [{"indices": good, "ids": [kept[i] for i in good]}] if good else [],
        }
    elif stage == "infer":
        ids = [m for group in event["groups"] for m in group["ids"]]
        answer = {"groups": event["groups"], "inference": "cpu"}
    elif stage == "score":
        found = [m for m in ids if isolate and "-kills-score" in m]
        ids = [m for m in ids if m not in found]
        answer = {
            "retry": [m for m in ids if "early" in m or m.startswith("late-")],
            "failures": [failure(m) for m in ids if "bug" in m] + [failure(m) for m in found],
            "unfinished": unfinished,
            "failed": 0,
        }
    else:
        ids = [item["message_id"] for item in event["items"]]
        assert event["inference"] == ("cpu" if event["groups"] else "none"), event
        retry, failed = [m for m in ids if m.startswith("late-")], [m for m in ids if m.startswith("afterwards-bug")]
        answer = {"retry": retry, "failures": [failure(m) for m in failed], "failed": 0}
    for m in ids:
        if f"refused-{stage}" in m:
            error = m.rpartition("-")[2]
            raise type(error, (Exception,), {})(f"{error}: as the message says")
    for m in ids:
        if f"hangs-{stage}" in m:
            first = Path(f"{os.environ['SEEN']}-{m}")
            time.sleep(max(0, first.stat().st_mtime + 39 - time.time()) if first.exists() else 0)
            first.touch()
    if any(f"kills-{stage}" in m or f"kills-both-{stage}" in m or f"hangs-{stage}" in m for m in ids):
        os._exit(1)
    if stage in ("postprocess", "score"):
        again = {m for m in answer["retry"]} | {one["message_id"] for one in answer["failures"]}
        with Path(os.environ["ROWS"]).open("a") as file:
            file.writelines(m + "\\n" for m in ids if m not in again)
    return answer
"""


class Express:
    """A workflow in the embedded AWS, once with little and once with all the time that there is; and fused."""

    def __init__(self, embedded: Embedded, folder: Path) -> None:
        self.client = embedded.client
        self._embedded = embedded
        self._dead = embedded.queue("dead")
        self._seen, self._rows = folder / "seen", folder / "rows"
        for stage in ("preprocess", "infer", "postprocess", "score"):
            embedded.function(stage, _STAGE, STAGE=stage, SEEN=str(self._seen), ROWS=str(self._rows))
        kinds = {"usual": {}, "short": {"seconds": 60}, "fused": {"fused": True}, "alone": {"trigger": False}}
        self._machines = {
            name: embedded.machine(f"workflow-{name}", self._definition(**kind), "EXPRESS")
            for name, kind in kinds.items()
        }

    def _definition(self, *, seconds: int = 300, fused: bool = False, trigger: bool = True) -> str:
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

        route = (
            FusedRoute(score=stage("score"))
            if fused
            else StagedRoute(preprocess=stage("preprocess"), inference=stage("infer"), postprocess=stage("postprocess"))
        )
        workflow = InferenceWorkflow(
            stack,
            "Workflow",
            routes=[route],
            trigger=S3Trigger(stack, "Trigger", max_receive_count=TRIES) if trigger else None,
            timeout=cdk.Duration.seconds(seconds),
        )
        made = definition(stack, workflow.state_machine, TriggerDeadLetterQueue=self._dead)
        # Functions raise here what Lambda says instead of them, and the emulator knows their errors by such names.
        return re.sub(r'"Lambda\.(?!TooManyRequests)(\w+)Exception"', r'"\1Error"', made)

    def execute(self, *ids: str, kind: str = "usual", receives: int | None = 1) -> dict[str, Any]:
        """Run the workflow with messages that were delivered so many times."""
        self._seen.unlink(missing_ok=True)
        self._rows.unlink(missing_ok=True)
        count = {} if receives is None else {"receive_count": str(receives)}
        messages = [{"message_id": i, **count, "body": {"time": "2026-01-01T00:00:00Z", "key": i}} for i in ids]
        return self.client("stepfunctions").start_sync_execution(
            stateMachineArn=self._machines[kind], input=json.dumps(messages)
        )

    def run(self, *ids: str, kind: str = "usual", receives: int | None = 1) -> list[str]:
        """Return the ids of the messages that the workflow reports as failed, in order."""
        answer = self.execute(*ids, kind=kind, receives=receives)
        assert answer["status"] == "SUCCEEDED", answer
        failures = json.loads(answer["output"])["batchItemFailures"]
        assert all(set(failure) == {"itemIdentifier"} for failure in failures)
        return sorted(failure["itemIdentifier"] for failure in failures)

    def rows(self) -> list[str]:
        """Return the ids of the rows that the last execution wrote."""
        return sorted(self._rows.read_text().split()) if self._rows.exists() else []

    def parts(self) -> list[tuple[list[str], bool]]:
        """Return the ids that the first stage was asked about, and whether it was to isolate them."""
        return [tuple(json.loads(line)) for line in self._seen.read_text().splitlines()]

    def dead(self) -> dict[str, tuple[str, str]]:
        """Take the dead letters, and return their errors and causes by id."""
        letters = self._embedded.letters(self._dead)
        found = {}
        for body, attributes in letters:
            event = json.loads(body)
            assert event.keys() == {"time", "key"}
            found[event["key"]] = (attributes["Error"]["StringValue"], attributes["Cause"]["StringValue"])
        assert len(found) == len(letters)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Express]:
    with QuickEmulator() as emulator:
        yield Express(Embedded(emulator), tmp_path_factory.mktemp("stages"))


@pytest.fixture(autouse=True)
def no_dead_letters(stack: Express) -> Iterator[None]:
    yield
    assert stack.dead() == {}  # tests take those that they expect


@pytest.fixture
def run(stack: Express) -> Callable[..., list[str]]:
    return stack.run


def good(count: int) -> list[str]:
    return [f"good-{i:02}" for i in range(count)]


def test_a_good_batch_has_no_failures(stack):
    assert stack.run("a", "b", "c") == []
    assert stack.rows() == ["a", "b", "c"]
    assert stack.parts() == [(["a", "b", "c"], False)]


def test_a_batch_of_one_has_no_failures(run):
    assert run("a") == []


def test_a_batch_in_which_all_are_rejected_skips_inference(run):
    assert run("reject-1", "reject-2") == []


@pytest.mark.parametrize("kind", ["preprocess", "both-preprocess", "infer", "postprocess", "score"])
def test_only_the_message_that_kills_its_process_fails(stack, kind):
    ids, killer = good(31), f"x-kills-{kind}"
    ids.insert(13, killer)
    assert stack.run(*ids, kind="fused" if kind == "score" else "usual") == [killer]
    assert stack.rows() == good(31)


@pytest.mark.parametrize("count", [4, 8])
def test_of_32_several_killers_fail_and_all_others_get_their_rows_at_once(stack, count):
    killers = [f"x-kills-infer-{i}" for i in range(count)]
    ids = good(32 - count)
    for i, killer in enumerate(killers):
        ids.insert(i * 4, killer)
    assert stack.run(*ids, receives=TRIES - 1) == killers
    assert stack.rows() == good(32 - count)
    assert stack.run(*killers, receives=TRIES) == []
    assert stack.dead() == dict.fromkeys(killers, ("Runtime.HandlerError", "Worker process died"))


def test_a_dead_batch_is_split_in_four_isolated_parts_and_these_into_items(stack):
    ids = [*good(6), "x-kills-infer"]
    assert stack.run(*ids) == ["x-kills-infer"]
    first, *later = stack.parts()
    assert first == (ids, False)
    assert sorted(later) == sorted(
        [(ids[:2], True), (ids[2:4], True), (ids[4:6], True), (ids[6:], True)],
    )
    assert stack.run(*ids, receives=2) == ["x-kills-infer"]
    first, *later = stack.parts()
    assert first == (ids, True)
    assert sorted(later) == sorted(([one], True) for one in ids)


def test_what_came_back_is_isolated_and_kept_from_what_is_new(stack):
    messages = [{"message_id": m, "receive_count": count, "body": {}} for m, count in (("a", "1"), ("b", "2"))]
    stack.run("warm")
    answer = stack.client("stepfunctions").start_sync_execution(
        stateMachineArn=stack._machines["usual"], input=json.dumps(messages)
    )
    assert json.loads(answer["output"]) == {"batchItemFailures": []}
    assert sorted(stack.parts()[1:]) == [(["a"], False), (["b"], True)]


def test_two_killers_in_a_batch_both_fail_and_nothing_else(run):
    assert run("x-kills-infer-1", "a", "b", "c", "x-kills-postprocess-2") == [
        "x-kills-infer-1",
        "x-kills-postprocess-2",
    ]


def test_a_killer_alone_fails(run):
    assert run("x-kills-infer") == ["x-kills-infer"]


def test_what_is_left_when_time_runs_short_is_given_back_and_what_is_done_stays_done(stack):
    ids = ["a", "b", "c", "d", "e", "x-hangs-infer", "g", "h"]
    # After 38 of 60 seconds nothing new is begun: by then three of the four parts are done.
    assert stack.run(*ids, kind="short") == ["e", "x-hangs-infer"]
    assert stack.rows() == ["a", "b", "c", "d", "g", "h"]


def test_what_was_not_begun_is_done_in_the_same_execution(stack):
    ids = [f"long-{i}" for i in range(5)]
    assert stack.run(*ids) == []
    assert stack.rows() == ids
    assert [len(part) for part, _ in stack.parts()] == [5, 2]
    assert stack.run(*ids, kind="fused") == []
    assert stack.rows() == ids


@pytest.mark.parametrize("kind", ["usual", "fused"])
def test_what_fails_by_itself_is_tried_a_few_times_and_then_a_dead_letter_with_its_reason(stack, kind):
    bugs = ["afterwards-bug", "bug-1"]
    assert stack.run("a", *bugs, kind=kind, receives=TRIES - 1) == bugs
    assert stack.run("a", *bugs, kind=kind, receives=TRIES) == []
    assert stack.dead() == {m: ("Bug", f"a bug in {m}") for m in bugs}
    assert stack.rows() == ["a"]


def test_a_killer_is_a_dead_letter_with_what_lambda_says(stack):
    assert stack.run("a", "x-kills-infer", "x-kills-preprocess", receives=TRIES) == []
    assert stack.dead() == {
        "x-kills-infer": ("Runtime.HandlerError", "Worker process died"),
        "x-kills-preprocess": ("Bug", "a bug in x-kills-preprocess"),
    }


@pytest.mark.parametrize(("kind", "receives"), [("alone", 900), ("usual", None)])
def test_what_fails_without_a_trigger_or_a_count_is_given_back(stack, kind, receives):
    assert stack.run("a", "bug", "x-kills-infer", kind=kind, receives=receives) == ["bug", "x-kills-infer"]


@pytest.mark.parametrize("body", ["no event", [], {}, None, 7])
def test_messages_that_are_no_events_fail_and_keep_what_they_say(stack, body):
    message = {"message_id": "bug", "receive_count": str(TRIES), "body": body}
    answer = stack.client("stepfunctions").start_sync_execution(
        stateMachineArn=stack._machines["usual"], input=json.dumps([message])
    )
    assert json.loads(answer["output"]) == {"batchItemFailures": []}
    ((found, _),) = stack._embedded.letters(stack._dead)
    assert (found if body == "no event" else json.loads(found)) == body


def test_a_dead_letter_that_cannot_be_sent_stays_in_the_queue_and_fails_again(stack):
    sqs = stack.client("sqs")
    sqs.delete_queue(QueueUrl=stack._dead)
    try:
        assert stack.run("a", "bug", receives=TRIES) == ["bug"]
    finally:
        stack._embedded.queue("dead")
    assert stack.run("a", "bug", receives=TRIES) == []
    assert stack.dead() == {"bug": ("Bug", "a bug in bug")}


def test_what_the_stages_ask_to_retry_is_given_back_however_often(stack):
    assert stack.run("early-1", "a", "late-1", "b", receives=900) == ["early-1", "late-1"]


def test_all_retried_early_fails_each(run):
    assert run("early-1", "early-2") == ["early-1", "early-2"]


@pytest.mark.parametrize("error", ["SnapStartNotReadyError", "ENINotReadyError", "RetryableError"])
@pytest.mark.parametrize("stage", ["preprocess", "infer"])
def test_what_is_not_ready_never_fails_by_itself(stack, stage, error):
    ids = ["a", f"refused-{stage}-{error}", "b"]
    assert stack.run(*ids, receives=900) == sorted(ids)
    assert {tuple(part) for part, _ in stack.parts()} == {tuple(ids)}  # nobody looks for a killer


@pytest.mark.parametrize("error", ["KMSAccessDeniedError", "ResourceNotFoundError"])
def test_what_is_misconfigured_fails_the_execution_and_buries_nobody(stack, error):
    answer = stack.execute("a", f"refused-infer-{error}", "bug", receives=900)
    assert (answer["status"], answer.get("error")) == ("FAILED", "Misconfigured")
    assert answer["cause"] == f"{error}: {error}: as the message says"


@pytest.mark.parametrize("stage", ["preprocess", "infer", "postprocess"])
def test_a_throttled_function_fails_the_whole_batch(stack, stage):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName=stage, ReservedConcurrentExecutions=0)
    try:
        assert stack.run("a", "b", "c", receives=900) == ["a", "b", "c"]
    finally:
        lambda_.delete_function_concurrency(FunctionName=stage)


def test_a_throttled_function_gives_back_what_others_would_find_a_killer_in(stack):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName="infer", ReservedConcurrentExecutions=0)
    try:
        ids = ["a", "b", "c", "x-kills-preprocess"]
        assert stack.run(*ids) == ids
    finally:
        lambda_.delete_function_concurrency(FunctionName="infer")


@pytest.mark.parametrize(
    ("ids", "failed"),
    [
        (["a"], []),
        (["a", "b", "c"], []),
        (
            ["x-kills-score-1", "a", "b", "early-1", "x-kills-score-2"],
            ["early-1", "x-kills-score-1", "x-kills-score-2"],
        ),
        (["x-kills-both-score", "a", "b"], ["x-kills-both-score"]),
        (["early-1", "a", "late-1", "b"], ["early-1", "late-1"]),
        (["early-1"], ["early-1"]),
    ],
)
def test_a_fused_workflow_fails_the_same_messages(run, ids, failed):
    assert run(*ids, kind="fused") == failed


def test_a_throttled_fused_function_fails_the_whole_batch(stack):
    lambda_ = stack.client("lambda")
    lambda_.put_function_concurrency(FunctionName="score", ReservedConcurrentExecutions=0)
    try:
        assert stack.run("a", "b", "c", kind="fused", receives=900) == ["a", "b", "c"]
    finally:
        lambda_.delete_function_concurrency(FunctionName="score")
