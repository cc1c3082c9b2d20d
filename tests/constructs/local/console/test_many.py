"""Large pipelines: the page gets the newest, and the counts of the rest; a look reads what is new, and no more."""

from __future__ import annotations

import io
import json
import time
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.local import aws
from cdk_inference.local.console.details import details
from cdk_inference.local.console.pipeline_view import PipelineView
from cdk_inference.local.console.redrive import event_of, redrive
from cdk_inference.local.console.rows import Rows
from cdk_inference.local.emulator.emulator import Emulator
from cdk_inference.local.emulator.parts import Parts
from cdk_inference.local.messages import messages
from cdk_inference.local.uploads import Pipeline
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 1200


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Emulator() as running:
        yield running.endpoint


def row(number: int, **other: str) -> dict[str, Any]:
    at = f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.000+00:00"
    strings = {
        "object": f"inbox/in/{number}",
        "version": "null#1",
        "bucket": "inbox",
        "key": f"in/{number}",
        "status": "SUCCEEDED" if number % 3 else "REJECTED",
        "recorded_at": at,
        "event_time": at,
        "model_version": "1",
        "etag": "e",
        **other,
    }
    prediction = {"M": {"label": {"S": f"label {number % 2}"}, "score": {"N": "0.5"}}}
    return {**{name: {"S": value} for name, value in strings.items()}, "size": {"N": "1"}, "prediction": prediction}


@pytest.fixture(scope="module")
def table(endpoint: str) -> str:
    dynamodb = aws.client(endpoint, "dynamodb")
    names = {"object": "HASH", "version": "RANGE"}
    dynamodb.create_table(
        TableName="rows",
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in names.items()],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
        BillingMode="PAY_PER_REQUEST",
    )
    for first in range(0, MANY, 25):
        puts = [{"PutRequest": {"Item": row(number)}} for number in range(first, first + 25)]
        dynamodb.batch_write_item(RequestItems={"rows": puts})
    dynamodb.put_item(TableName="rows", Item=row(0, object="other/in/0", bucket="other"))
    dynamodb.put_item(TableName="rows", Item=row(0, object="inbox/out/0", key="out/0"))
    return "rows"


class Counting:
    """DynamoDB that counts how often a table is read, and what it returns."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.items = self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, name: str) -> Any:
        found = self._client.get_paginator(name)

        def paginate(**given: Any) -> Iterator[Any]:
            self.reads += 1
            for page in found.paginate(**given):
                self.items += len(page["Items"])
                yield page

        return type("Pages", (), {"paginate": staticmethod(paginate)})


def test_a_page_has_the_newest_and_finds_the_others(endpoint: str, table: str) -> None:
    dynamodb = Counting(aws.client(endpoint, "dynamodb"))
    rows = Rows(dynamodb, table, {"inbox": "in/"})
    assert rows.refresh()
    assert rows.statuses() == {"SUCCEEDED": MANY * 2 // 3, "REJECTED": MANY // 3}
    assert [one["key"] for one in rows.find()] == [f"in/{MANY - 1 - number}" for number in range(200)]
    assert [one["key"] for one in rows.find(skip=MANY - 3)] == ["in/2", "in/1", "in/0"]
    assert [one["key"] for one in rows.find(search="N/77", most=3)] == ["in/779", "in/778", "in/777"]
    assert {one["label"] for one in rows.find(search="LABEL 1")} == {"label 1"}
    assert {one["status"] for one in rows.find(statuses=("REJECTED",))} == {"REJECTED"}

    # The next look reads ten seconds back, and what is new.
    dynamodb.items = 0
    assert not rows.refresh()
    dynamodb.put_item(TableName=table, Item=row(MANY, status="FAILED"))
    assert rows.refresh()
    assert rows.find(most=1)[0]["status"] == "FAILED"
    assert dynamodb.items < 30

    # A row that is gone is noticed, too.
    key = {"object": {"S": f"inbox/in/{MANY}"}, "version": {"S": "null#1"}}
    dynamodb.delete_item(TableName=table, Key=key)
    assert rows.refresh()
    assert rows.find(most=1)[0]["key"] == f"in/{MANY - 1}"


def test_a_row_whose_message_no_look_met_is_seen_though_quiet_looks_read_seldom(endpoint: str, table: str) -> None:
    aws.client(endpoint, "s3").create_bucket(Bucket="inbox")
    aws.client(endpoint, "sqs").create_queue(QueueName="direct")
    parts = Parts(queue="direct", functions={"function": "Fused"})
    view = PipelineView(endpoint, Pipeline(endpoint, "any", inbox="inbox", prefix="in/", table=table, parts=parts))
    dynamodb = Counting(aws.client(endpoint, "dynamodb"))
    view.rows = Rows(dynamodb, table, {"inbox": "in/"})
    for _ in range(10):  # until it is quiet
        view.look()
    dynamodb.put_item(TableName=table, Item=row(MANY + 1))
    looks = [view.look() for _ in range(5)]
    assert looks[-1]["rows"]["rows"][0]["key"] == f"in/{MANY + 1}"
    dynamodb.reads = 0
    for _ in range(40):
        view.look()
    assert 8 <= dynamodb.reads <= 12  # the first of them are not quiet yet
    key = {"object": {"S": f"inbox/in/{MANY + 1}"}, "version": {"S": "null#1"}}
    dynamodb.delete_item(TableName=table, Key=key)


@pytest.mark.parametrize("id", [None, "5f2a"])
def test_the_logs_of_an_object_are_those_that_name_it_or_its_message(endpoint: str, table: str, id: str | None) -> None:
    workflow, function = f"workflow-{id}", f"function-{id}"
    iam = aws.client(endpoint, "iam")
    role = iam.create_role(RoleName=workflow, AssumeRolePolicyDocument='{"Statement": []}')["Role"]["Arn"]
    machine = aws.client(endpoint, "stepfunctions").create_state_machine(
        name=workflow,
        definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Pass", "End": True}}}),
        roleArn=role,
    )["stateMachineArn"]
    with zipfile.ZipFile(package := io.BytesIO(), "w") as archive:
        archive.writestr("any.py", "")
    aws.client(endpoint, "lambda").create_function(
        FunctionName=function,
        Runtime="python3.13",
        Handler="any.handler",
        Role=role,
        Code={"ZipFile": package.getvalue()},
    )
    own = ["scored in/1", '["in/1"]', "in/1, item 0", "s3://inbox/in/1.", "物体in/1を採点"]
    of_message = ["message 5f2a failed"]
    others = [
        "scored in/10",
        "scored in/1.txt",
        "0 of 10 parts took 105 ms",
        "message 05f2a failed",
        "REPORT RequestId: 0",
    ]
    logs, group = aws.client(endpoint, "logs"), f"/aws/lambda/{function}"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="any")
    now = round(time.time() * 1000)
    logged = [{"timestamp": now, "message": message} for message in [*own, *of_message, *others]]
    logs.put_log_events(logGroupName=group, logStreamName="any", logEvents=logged)
    item = {"key": "in/1"} | ({"message_id": id} if id else {})
    aws.client(endpoint, "stepfunctions").start_execution(stateMachineArn=machine, input=json.dumps({"items": [item]}))

    parts = Parts(queue="logged", workflows=[workflow], functions={function: "Preprocess"})
    aws.client(endpoint, "sqs").create_queue(QueueName="logged")
    aws.client(endpoint, "s3").create_bucket(Bucket="inbox")
    view = PipelineView(endpoint, Pipeline(endpoint, "any", inbox="inbox", prefix="in/", table=table, parts=parts))
    view.look()
    found = [entry["message"] for entry in details(view, "inbox", "in/1")["logs"]]
    assert found == own + (of_message if id else [])


def test_one_dead_letter_or_all_go_back_to_the_queue(endpoint: str) -> None:
    sqs = aws.client(endpoint, "sqs")
    for name in ("work", "dead"):
        sqs.create_queue(QueueName=name)
    dead = f"{endpoint}/{aws.ACCOUNT}/dead"
    for number in range(35):
        sqs.send_message(QueueUrl=dead, MessageBody=f"body {number}")
    parts = Parts(queue="work")
    pipeline = Pipeline(endpoint, "any", inbox="inbox", prefix="", table="rows", dead_letter_queue="dead", parts=parts)
    wanted = next(message for message in messages(endpoint, "dead") if message.body == "body 33")
    assert redrive(endpoint, pipeline, [wanted.id]) == 1
    assert [message.body for message in messages(endpoint, "work")] == ["body 33"]
    # Those that were looked at on the way are there for the next, and were not lost.
    assert len([message for message in messages(endpoint, "dead") if message.visible]) == 34
    assert redrive(endpoint, pipeline, [wanted.id]) == 0
    assert redrive(endpoint, pipeline, None) == 34
    assert messages(endpoint, "dead") == []
    assert sorted(message.body for message in messages(endpoint, "work")) == sorted(f"body {n}" for n in range(35))


@given(
    key=st.text(min_size=1),
    version=st.none()
    | st.text(st.characters(codec="ascii", exclude_characters="#"), min_size=1).filter(lambda v: v != "null"),
    sequencer=st.text("0123456789abcdef", min_size=1, max_size=32),
)
def test_an_object_that_is_scored_again_has_the_event_it_came_with(
    key: str, version: str | None, sequencer: str
) -> None:
    thing = {"key": key, "etag": "e", "size": 3, "sequencer": sequencer} | ({"version-id": version} if version else {})
    event = {"time": "2026-01-01T00:00:00.000Z", "detail": {"bucket": {"name": "inbox"}, "object": thing}}
    first = Item.from_message({"message_id": "1", "body": event})
    stored = {
        "bucket": first.bucket,
        "key": first.key,
        "version": f"{first.version_id or 'null'}#model",
        "etag": first.etag,
        "size": first.size,
        "sequencer": first.sequencer,
        "event_time": first.event_time,
    }
    assert Item.from_message({"message_id": "1", "body": event_of(stored, aws.DEFAULT_ENV)}) == first
