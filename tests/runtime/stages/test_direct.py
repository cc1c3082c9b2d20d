"""The direct function: what the workflow promises, without a workflow."""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import boto3
import pytest
from tests.runtime.invocation import Clock, Context
from tests.runtime.stages.mean import USER_CODE, code

from inference_runtime.stages import alone
from inference_runtime.stages.deadline import Deadline
from inference_runtime.stages.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Inbox

__all__ = ["code"]  # a fixture

QUEUE = "arn:aws:sqs:eu-central-1:000000000000:orders"
HOSTILE = USER_CODE.replace(
    'mean = outputs["mean"]',
    """mean = outputs["mean"]
        import os, signal, time
        if mean == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if mean == 14:
            time.sleep(3600)""",
)


@pytest.fixture
def dead_letters(endpoint: str) -> Any:
    """A queue, and what is in it."""
    queue = boto3.resource("sqs").create_queue(QueueName="dead-letters")
    yield queue
    queue.delete()


@pytest.fixture
def direct(
    code: Any, dead_letters: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> Callable[..., set[str]]:
    """The handler, which takes records of SQS and returns the ids of those to deliver again."""
    environment.setenv("DEAD_LETTER_QUEUE", dead_letters.url)
    environment.setenv("MAX_RECEIVE_COUNT", "3")
    environment.delenv("WORK_BUCKET")
    # Both afresh, once the test has written the user code.
    loaded = functools.cache(lambda: [load(name) for name in ("fused", "direct")][1])

    def call(*records: dict[str, Any]) -> set[str]:
        answer = loaded()({"Records": list(records)}, Context(1200))
        return {one["itemIdentifier"] for one in answer["batchItemFailures"]}

    return call


def record(message: dict[str, Any], times: int = 1) -> dict[str, Any]:
    """Return the record that SQS brings of a message of the inbox, with S3's own notification."""
    detail = message["detail"]
    entry = {**detail["object"], "key": quote_plus(detail["object"]["key"])}
    entry |= {"eTag": entry.pop("etag"), "versionId": entry.pop("version-id", None)}
    told = {"eventTime": message["time"], "s3": {"bucket": detail["bucket"], "object": entry}}
    return of_sqs(message["message_id"], json.dumps({"Records": [told]}), times)


def of_sqs(message_id: str, body: str, times: int = 1) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": str(times), "SentTimestamp": "1767323045000"}
    return {"messageId": message_id, "body": body, "attributes": attributes, "eventSourceARN": QUEUE}


def rows(table: str) -> dict[str, str]:
    found: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
    return {row["key"]: row["status"] for row in found}


def letters(queue: Any) -> dict[str, tuple[str, str]]:
    """Return error and cause of the dead letters, by their bodies."""
    found = {}
    while messages := queue.receive_messages(MaxNumberOfMessages=10, MessageAttributeNames=["All"]):
        for one in messages:
            said = one.message_attributes
            found[one.body] = (said["Error"]["StringValue"], said["Cause"]["StringValue"])
            one.delete()
    return found


def test_new_objects_get_rows_and_failures_come_back(direct: Any, inbox: Inbox, table: str, dead_letters: Any) -> None:
    objects = {"a +ä%20": b"[1, 2]", "refused": b"refuse", "bug": b"raise"}
    records = {key: record(inbox.put(key, body)) for key, body in objects.items()}
    test = of_sqs("t", json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "inbox"}))
    assert direct(test, *records.values()) == {records["bug"]["messageId"]}
    assert rows(table) == {"a +ä%20": "SUCCEEDED", "refused": "REJECTED"}
    assert letters(dead_letters) == {}


def test_what_fails_by_itself_too_often_becomes_a_dead_letter(
    direct: Any, inbox: Inbox, table: str, dead_letters: Any
) -> None:
    bug = record(inbox.put("bug", b"raise"), 3)
    malformed = [of_sqs(name, body, 3) for name, body in {"x": "no JSON", "y": '{"Records": []}'}.items()]
    assert direct(bug, *malformed) == set()
    found = letters(dead_letters)
    assert found[bug["body"]] == ("RuntimeError", "as it was told")
    assert {found[one["body"]][0] for one in malformed} == {"MalformedMessageError"}
    assert rows(table) == {}


def test_a_message_that_kills_its_process_fails_alone(
    code: Any, direct: Any, environment: pytest.MonkeyPatch, inbox: Inbox, table: str, dead_letters: Any
) -> None:
    code(HOSTILE)
    ask = Worker.ask

    def ask_within(worker: Worker, request: dict[str, Any], seconds: float) -> Any:
        slow = request["message"]["message_id"] == records["slow"]["messageId"]
        try:
            return ask(worker, request, 1.0 if slow else seconds)
        except TimeoutError:
            assert slow
            raise

    environment.setattr(Worker, "ask", ask_within)
    objects = {"killer": b"[13]", "good": b"[1]", "slow": b"[14]", "also good": b"[2]"}
    records = {key: record(inbox.put(key, body), 2) for key, body in objects.items()}
    back = direct(*records.values())
    assert back == {records["killer"]["messageId"], records["slow"]["messageId"]}
    assert rows(table) == {"good": "SUCCEEDED", "also good": "SUCCEEDED"}
    last = of_sqs(records["killer"]["messageId"], records["killer"]["body"], 3)
    assert direct(last, records["good"]) == set()
    assert letters(dead_letters) == {records["killer"]["body"]: ("ProcessDiedError", "killed by SIGKILL")}


def test_each_message_gets_a_share_of_the_time_and_is_to_blame_after_a_fair_one(
    environment: pytest.MonkeyPatch,
) -> None:
    """All of them hang. A late one is not begun any more, and one that had little of an invocation comes back."""
    clock, asked = Clock(environment), []

    class Hanging:
        """The process of a model, which takes all the time that it gets."""

        def __init__(self, _: str) -> None: ...
        def close(self) -> None: ...

        def receive(self, _: float) -> tuple[dict[str, Any], list[Any]]:
            return {}, []

        def ask(self, request: dict[str, Any], seconds: float) -> None:
            asked.append((request["seconds"], seconds))
            clock.now += seconds
            raise TimeoutError

    environment.setattr(alone, "Worker", Hanging)
    messages = [{"message_id": name} for name in "abcdef"]
    answers = list(alone.scored_alone(messages, Deadline(clock.context(1001)), 1001))
    assert asked == [(250, 250)] * 4
    told = [(failure["message_id"], failure["error"]) for answer in answers for failure in answer.get("failures", ())]
    assert told == [(name, "TookTooLongError") for name in "abcd"]
    assert answers[-1] == {"unfinished": ["e", "f"]}
    # The model took most of the time to open.
    *late, rest = alone.scored_alone(messages, Deadline(clock.context(401)), 1001)
    assert (late, rest) == ([{"unfinished": [name]} for name in "abcd"], {"unfinished": ["e", "f"]})


def test_no_message_is_blamed_when_the_process_does_not_start(
    code: Any, direct: Any, environment: pytest.MonkeyPatch, inbox: Inbox, dead_letters: Any
) -> None:
    assert direct() == set()  # this process has loaded it
    environment.setenv("POSTPROCESS_FUNCTION", "nothing:here")
    records = [record(inbox.put(key, b"[1]"), 1000) for key in ("a", "b")]
    assert direct(*records) == {one["messageId"] for one in records}
    assert letters(dead_letters) == {}


def test_a_dead_letter_that_cannot_be_sent_comes_back(direct: Any, inbox: Inbox, dead_letters: Any) -> None:
    bug = record(inbox.put("bug", b"raise"), 3)
    dead_letters.delete()
    assert direct(bug) == {bug["messageId"]}
    boto3.resource("sqs").create_queue(QueueName="dead-letters")


def test_a_payload_is_named_by_paths(direct: Any, table: str, environment: pytest.MonkeyPatch, code: Any) -> None:
    code(USER_CODE.replace("json.loads(data)", "json.loads(data)['numbers']"))
    environment.setenv("ITEM_ID", "order.ids.0")
    environment.setenv("ITEM_SEQUENCE", "version")
    bodies = {
        "new": {"order": {"ids": ["o1"]}, "version": 2, "numbers": [3]},
        "old": {"order": {"ids": ["o1"]}, "version": 1, "numbers": [4]},
        "number": {"order": {"ids": [7]}, "version": "10", "numbers": [5]},
    }
    broken = {"none": "{}", "deep": "[" * 100_000, "flag": '{"order": {"ids": [true]}, "version": 1}'}
    records = [of_sqs(name, json.dumps(body)) for name, body in bodies.items()]
    assert direct(*records, *(of_sqs(name, body) for name, body in broken.items())) == set(broken)
    found: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
    assert {row["object"]: int(row["prediction"]["mean"]) for row in found} == {"sqs:orders/o1": 3, "sqs:orders/7": 5}


def test_a_new_object_costs_one_get_and_one_write(direct: Any, inbox: Inbox, table: str) -> None:
    assert direct() == set()
    fused = sys.modules["inference_runtime.handlers.fused"]
    calls: Counter[str] = Counter()
    for client in (fused._preprocessor._source._s3, fused._postprocessor._sink._dynamodb):
        client.meta.events.register("before-call", lambda model, **_: calls.update([model.name]))
    assert direct(*(record(inbox.put(f"{number}", b"[1]")) for number in range(10))) == set()
    assert calls == {"GetObject": 10, "PutItem": 10}
