"""Where the items of a batch go, and what becomes of them when something dies on the way: run for real."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_s3 as s3

from cdk_inference import (
    FusedRoute,
    GpuWorkflow,
    InferenceWorkflow,
    ModelArtifact,
    Preprocess,
    Route,
    Router,
    Routing,
    S3Trigger,
    StagedRoute,
    StageFunction,
)
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.routing.plan import RoutePlan
from tests.constructs.conftest import RECIPE
from tests.waiting import wait_until

from .embedded import Embedded, Lines, QuickEmulator, definition

pytestmark = pytest.mark.e2e

BUCKET = "inbox"
_STAGES = ("preprocess", "infer", "postprocess")
# A key is its own order: "unsure" is what the first model is not sure of, "kills-b-infer" kills the process of a stage.
_STAGE = """
import json
import os
from pathlib import Path

route, stage = os.environ["ROUTE"], os.environ["STAGE"]

def write(row):
    with Path(os.environ["ROWS"]).open("a") as file:
        file.write(json.dumps(row) + "\\n")

def failure(message):
    return {"message_id": message["message_id"], "error": "MalformedMessageError", "cause": "no event"}

def handler(event, context):
    if stage == "preprocess":
        keys = [m["body"]["detail"]["object"]["key"] if isinstance(m["body"], dict) else "?" for m in event["messages"]]
        known = [i for i, key in enumerate(keys) if key != "?"]
        answer = {
            "items": [
                {
                    "message_id": event["messages"][i]["message_id"], "key": keys[i], "bucket": "inbox",
                    "version_id": None, "etag": "e", "size": 1, "sequencer": "a", "event_time": "t",
                }
                for i in known
            ],
            "rejected": [{"index": n, "reason": "no"} for n, i in enumerate(known) if "reject" in keys[i]],
            "retry": [],
            "failed": [failure(m) for m, key in zip(event["messages"], keys) if key == "?"],
        }
        good = [n for n, i in enumerate(known) if "reject" not in keys[i]]
        answer["groups"] = [{"indices": good, "keys": [keys[known[n]] for n in good]}] if good else []
    elif stage == "infer":
        only = event.get("only")
        pairs = [pair for group in event["groups"] for pair in zip(group["indices"], group["keys"])]
        indices, keys = zip(*(pair for pair in pairs if only is None or pair[0] in only))
        sure = [{"index": i, "confidence": 0.1 if "unsure" in key else 0.9} for i, key in zip(indices, keys)]
        answer = {"groups": [{"indices": indices, "keys": keys}], "inference": "cpu", "model_version": route}
        answer["confidences"] = sure
    elif stage == "score":
        keys = [m["body"]["detail"]["object"]["key"] for m in event["messages"]]
        for key in keys:
            row = {"key": key, "route": event["route"], "variant": event["variant"]}
            write(row)
        answer = {"retry": [m["message_id"] for m in event["messages"] if m["message_id"].endswith("again")]}
    else:
        keys = [item["key"] for item in event["items"]]
        only = event.get("only") if event.get("only") is not None else range(len(keys))
        unsure = [one["index"] for one in event.get("unsure") or []]
        scored = {i for group in event["groups"] for i in group["indices"]}
        rejected = [one["index"] for one in event["rejected"]]
        for i in only:
            if i not in unsure and (i in scored or i in rejected):
                item = event["items"][i]
                row = {
                    "key": item["key"], "route": event["route"], "variant": event["variant"],
                    "status": "REJECTED" if i in rejected else "SUCCEEDED",
                    "first": (event.get("first") or {}).get(item["message_id"]),
                    "version": event.get("row_version"),
                }
                write(row)
        answers = [{"message_id": event["items"][i]["message_id"], "answer": {"route": route}} for i in unsure]
        answer = {"retry": [], "unsure": answers}
    if any(f"kills-{route}-{stage}" in key for key in keys):
        os._exit(1)
    return answer
"""
_DECIDE = """
def handler(event, context):
    keys = {m["message_id"]: m["body"]["detail"]["object"]["key"] for m in event["messages"]}
    labels = {one: "left" if "left" in key else "right" for one, key in keys.items() if "never" not in key}
    labels |= {one: "nowhere" for one, key in keys.items() if "nowhere" in key}
    failed = [{"message_id": one, "error": "Bug", "cause": "never"} for one, key in keys.items() if "never" in key]
    return {"decisions": labels, "failed": failed}
"""


class Routed:
    """Workflows with the routes a, b (on a CPU) and g (on a GPU), each with another routing."""

    def __init__(self, embedded: Embedded, rows: Path) -> None:
        self.embedded = embedded
        self._rows = Lines(rows)
        self._dead = embedded.queue("dead")
        for route in ("a", "b", "g"):
            for stage in (*_STAGES, "score"):
                embedded.function(f"{route}-{stage}", _STAGE, ROUTE=route, STAGE=stage, ROWS=str(rows))
        embedded.function("decide", _DECIDE)
        embedded.client("s3").create_bucket(Bucket=BUCKET)
        self._machines = {
            "cascade": self._deploy("cascade", lambda a, b, g: Routing.cascade(first=a, then=b, threshold=0.5)),
            "gpu": self._deploy("gpu", lambda a, b, g: Routing.cascade(first=a, then=g, threshold=0.5)),
            "looked-up": self._deploy(
                "looked-up",
                lambda a, b, g: Routing.by_tag(
                    "class", {"gold": a}, otherwise=Routing.by_metadata("class", {"silver": b}, otherwise=g)
                ),
            ),
            "decided": self._deploy(
                "decided",
                lambda a, b, g: Routing.by_function(
                    Path(__file__).parents[1] / "constructs" / "routing" / "deciding.py:decide", {"left": a, "right": b}
                ),
            ),
            "split": self._deploy("split", lambda a, b, g: Routing.split({"old": (1, a), "new": (1, b)})),
            "fused": self._deploy(
                "fused",
                lambda a, b, g: Routing.by_key({"plain*": a}, otherwise=Routing.split({"old": (1, a), "new": (1, b)})),
                fused=True,
            ),
        }

    def _deploy(self, name: str, branch, *, fused: bool = False) -> str:
        stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
        model = ModelArtifact(stack, "Model", recipe=RECIPE)
        plan = RoutePlan.of(branch(*(Route(r, model=model, preprocess=Preprocess.image(size=224)) for r in "abg")))
        trigger = S3Trigger(stack, "Trigger", bucket=s3.Bucket.from_bucket_name(stack, "Bucket", BUCKET))
        stages = {r: {s: _stage(stack, f"{r}-{s}") for s in _STAGES} for r in plan.routes}
        gpu = None
        if "g" in stages:
            gpu = GpuWorkflow(
                stack,
                "Gpu",
                inference=stages["g"]["infer"],
                postprocess=stages["g"]["postprocess"],
                trigger=trigger,
                max_wait=cdk.Duration.seconds(60),
            )
        workflow = InferenceWorkflow(
            stack,
            "Workflow",
            routes=[
                FusedRoute(
                    score=_stage(stack, f"{planned.route.name}-score"), name=planned.name, route=planned.route.name
                )
                if fused
                else StagedRoute(
                    preprocess=stages[planned.route.name]["preprocess"],
                    inference=stages[planned.route.name]["infer"],
                    postprocess=stages[planned.route.name]["postprocess"],
                    name=planned.name,
                    route=planned.route.name,
                    gpu_workflow=gpu if planned.route.name == "g" else None,
                    escalation=planned.escalation,
                )
                for planned in plan.planned.values()
            ],
            router=Router(stack, "Router", plan=plan, trigger=trigger),
            trigger=trigger,
        )
        names = {
            "RouterDecider1": "arn:aws:lambda:us-east-1:000000000000:function:decide",
            "TriggerDeadLetterQueue": self._dead,
        }
        if gpu is not None:
            waiting = definition(stack, gpu.state_machine, TriggerDeadLetterQueue=self._dead)
            names["GpuStateMachine"] = self.embedded.machine(f"{name}-waiting", waiting, "STANDARD")
        return self.embedded.machine(name, definition(stack, workflow.state_machine, **names), "EXPRESS")

    def run(self, routing: str, *keys: str, receives: int = 1) -> tuple[dict[str, dict], list[str]]:
        """Return the rows of objects, by key, and the keys of what failed."""
        messages = [{**message(key), "receive_count": str(receives)} for key in keys]
        answer = self.embedded.client("stepfunctions").start_sync_execution(
            stateMachineArn=self._machines[routing], input=json.dumps(messages)
        )
        assert answer["status"] == "SUCCEEDED", (answer.get("error"), answer.get("cause"))
        failed = [one["itemIdentifier"].removeprefix("m-") for one in json.loads(answer["output"])["batchItemFailures"]]
        self._wait_for_gpu(f"{routing}-waiting")
        rows: dict[str, dict] = {}
        for body in self._rows.take():
            row = json.loads(body)
            assert rows.setdefault(row["key"], row) == row
        return rows, sorted(failed)

    def dead(self) -> list[str]:
        bodies = self.embedded.messages(self._dead)
        return sorted(json.loads(body)["detail"]["object"]["key"] for body in bodies)

    def reasons(self) -> dict[str, str]:
        """Take the dead letters, and return their causes by key, or by the whole body."""
        letters = self.embedded.letters(self._dead)
        return {
            json.loads(body)["detail"]["object"]["key"] if body.startswith("{") else body: attributes["Cause"][
                "StringValue"
            ]
            for body, attributes in letters
        }

    def executions(self, name: str) -> list[dict]:
        states = self.embedded.client("stepfunctions")
        machines = {m["name"]: m["stateMachineArn"] for m in states.list_state_machines()["stateMachines"]}
        return states.list_executions(stateMachineArn=machines[name])["executions"] if name in machines else []

    def _wait_for_gpu(self, name: str) -> None:
        wait_until(lambda: all(execution["status"] != "RUNNING" for execution in self.executions(name)))


def _stage(stack: cdk.Stack, name: str) -> StageFunction:
    return StageFunction(
        stack,
        name,
        package=ZipPackage(handler="stage.handler", runtime_requirements="postprocess"),
        environment={},
        description=name,
        memory_size=128,
        timeout=cdk.Duration.seconds(4),
    )


def message(key: str) -> dict:
    detail = {"bucket": {"name": BUCKET}, "object": {"key": key, "size": 1, "etag": "e", "sequencer": "a"}}
    return {"message_id": f"m-{key}", "body": "no event" if key == "malformed" else {"time": "t", "detail": detail}}


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    with QuickEmulator() as emulator:
        yield Routed(Embedded(emulator), tmp_path_factory.mktemp("rows") / "rows")


def said(rows):
    return {key: (row["route"], row["status"]) for key, row in rows.items()}


def test_a_cascade_asks_the_second_model_only_about_what_the_first_is_unsure_of(routed):
    rows, failed = routed.run("cascade", "x", "unsure-1", "reject-2", "y", "unsure-3")
    assert said(rows) == {
        "x": ("a", "SUCCEEDED"),
        "y": ("a", "SUCCEEDED"),
        "reject-2": ("a", "REJECTED"),
        "unsure-1": ("b", "SUCCEEDED"),
        "unsure-3": ("b", "SUCCEEDED"),
    }
    assert rows["unsure-1"]["first"] == {"route": "a"}
    assert rows["x"]["first"] is None
    assert rows["x"]["version"] == "unbuilt+unbuilt"
    assert failed == []


@pytest.mark.parametrize("keys", [["unsure"], ["sure"], ["reject"], ["unsure", "unsure-2"]])
def test_batches_of_one_kind_go_through_a_cascade(routed, keys):
    rows, failed = routed.run("cascade", *keys)
    assert sorted(rows) == sorted(keys)
    assert failed == []


@pytest.mark.parametrize("stage", ["a-preprocess", "a-infer", "a-postprocess", "b-preprocess", "b-infer"])
def test_only_the_item_that_kills_a_stage_of_a_cascade_fails(routed, stage):
    killer = f"unsure-kills-{stage}"
    others = ["x", "unsure-1", "y", "unsure-2", "unsure-3", "reject-4", "z"]
    rows, failed = routed.run("cascade", *others[:3], killer, *others[3:])
    assert sorted(rows.keys() - {killer}) == sorted(others)
    assert failed == [killer]


def test_a_malformed_message_fails_and_takes_nobody_along(routed):
    rows, failed = routed.run("cascade", "x", "malformed", "unsure")
    assert said(rows) == {"x": ("a", "SUCCEEDED"), "unsure": ("b", "SUCCEEDED")}
    assert failed == ["malformed"]


def test_what_goes_to_the_gpu_is_handed_over_once_and_both_answers_are_kept(routed):
    rows, failed = routed.run("gpu", "x", "unsure-1", "unsure-2")
    assert said(rows) == {"x": ("a", "SUCCEEDED"), "unsure-1": ("g", "SUCCEEDED"), "unsure-2": ("g", "SUCCEEDED")}
    assert rows["unsure-2"]["first"] == {"route": "a"}
    assert failed == []
    before = len(routed.executions("gpu-waiting"))
    rows, failed = routed.run("gpu", "x", "unsure-1", "unsure-2")  # delivered again
    assert list(rows) == ["x"]
    assert failed == []
    assert len(routed.executions("gpu-waiting")) == before


def test_an_item_that_kills_the_gpus_invocation_is_buried_alone(routed):
    rows, failed = routed.run("gpu", "unsure-kills-g-infer", "unsure-4", "unsure-5")
    assert said(rows) == {"unsure-4": ("g", "SUCCEEDED"), "unsure-5": ("g", "SUCCEEDED")}
    assert failed == []
    assert routed.dead() == ["unsure-kills-g-infer"]


def test_an_item_that_only_gets_rejected_on_its_way_to_the_gpu_wakes_nobody(routed):
    before = len(routed.executions("gpu-waiting"))
    rows, failed = routed.run("gpu", "reject-6")
    assert said(rows) == {"reject-6": ("a", "REJECTED")}
    assert failed == []
    assert len(routed.executions("gpu-waiting")) == before


def test_tags_and_metadata_are_read_from_s3_and_an_object_that_is_gone_has_none(routed):
    store = routed.embedded.client("s3")
    store.put_object(Bucket=BUCKET, Key="tagged", Body=b"x", Tagging="class=gold&other=1")
    store.put_object(Bucket=BUCKET, Key="described", Body=b"x", Metadata={"class": "silver"})
    store.put_object(Bucket=BUCKET, Key="plain", Body=b"x")
    rows, failed = routed.run("looked-up", "tagged", "described", "plain", "gone", "malformed")
    assert said(rows) == {
        "tagged": ("a", "SUCCEEDED"),
        "described": ("b", "SUCCEEDED"),
        "plain": ("g", "SUCCEEDED"),
        "gone": ("g", "SUCCEEDED"),
    }
    assert failed == ["malformed"]


def test_the_users_function_decides_and_what_it_does_not_decide_is_given_back(routed):
    rows, failed = routed.run("decided", "left-1", "right-2", "never-3")
    assert said(rows) == {"left-1": ("a", "SUCCEEDED"), "right-2": ("b", "SUCCEEDED")}
    assert failed == ["never-3"]


def test_the_tags_that_nobody_asks_for_do_not_fail_a_batch_of_long_ones(routed):
    """With all of them, the looked-up batch would have over 300,000 bytes, of the 262,144 that a state may hold."""
    store = routed.embedded.client("s3")
    long = {f"{'k' * 100}{i}": "v" * 256 for i in range(9)}
    keys = [f"tagged/{i:02}/{'é' * 400}" for i in range(32)]
    for key in keys:
        tags = urllib.parse.urlencode({**long, "class": "gold"})
        store.put_object(Bucket=BUCKET, Key=key, Body=b"x", Tagging=tags)
    rows, failed = routed.run("looked-up", *keys)
    assert failed == []
    assert {row["route"] for row in rows.values()} == {"a"}
    assert len(rows) == 32


def test_what_nobody_decides_fails_and_becomes_a_dead_letter_with_its_reason(routed):
    keys = ["left-1", "nowhere-2", "never-3"]
    rows, failed = routed.run("decided", *keys, receives=2)
    assert list(rows) == ["left-1"]
    assert failed == ["never-3", "nowhere-2"]
    assert routed.reasons() == {}
    assert routed.run("decided", *keys, receives=10) == (rows, [])
    assert routed.reasons() == {"nowhere-2": "no branch has the label that was decided on", "never-3": "never"}


def test_a_message_that_is_no_event_fails_with_its_reason(routed):
    rows, failed = routed.run("looked-up", "plain", "malformed", receives=10)
    assert failed == []
    assert list(rows) == ["plain"]
    assert routed.reasons() == {"no event": "the message names no object"}


def test_a_users_function_that_is_throttled_gives_the_batch_back(routed):
    functions = routed.embedded.client("lambda")
    functions.put_function_concurrency(FunctionName="decide", ReservedConcurrentExecutions=0)
    try:
        assert routed.run("decided", "left-1", "right-2") == ({}, ["left-1", "right-2"])
    finally:
        functions.delete_function_concurrency(FunctionName="decide")


def test_a_split_says_the_variant_and_sends_the_same_object_the_same_way(routed):
    keys = [f"{i}" for i in range(20)]
    rows, failed = routed.run("split", *keys)
    assert failed == []
    assert {(row["route"], row["variant"]) for row in rows.values()} == {("a", "old"), ("b", "new")}
    again, _ = routed.run("split", *reversed(keys))
    assert again == rows


def test_fused_routes_get_their_name_and_the_variant(routed):
    keys = ["plain", *(f"{i}" for i in range(20)), "0 again", "plain, kills-a-score"]
    rows, failed = routed.run("fused", *keys)
    assert failed == ["0 again", "plain, kills-a-score"]
    assert rows.pop("plain") == {"key": "plain", "route": "a", "variant": None}
    rows.pop("plain, kills-a-score")  # written before it killed the process
    assert {(row["route"], row["variant"]) for row in rows.values()} == {("a", "old"), ("b", "new")}
