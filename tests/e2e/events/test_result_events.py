"""Each row is one event for the rules that want it, and the pipe may do nothing else."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole
from cdk_inference.local.emulator.stream_pipes import StreamPipeDefinition
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

RECORD = json.dumps({"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.0}).encode()


def events_in(records: Watched, queue: str) -> list[dict[str, Any]]:
    return [
        json.loads(message["Body"]) for message in records.messages(f"{records.cloud.endpoint}/000000000000/{queue}")
    ]


def about(records: Watched, queue: str, *keys: str) -> list[dict[str, Any]]:
    return [event for event in events_in(records, queue) if event["detail"]["key"] in keys]


def test_each_row_is_an_event_that_does_not_say_what_is_in_it(records: Watched) -> None:
    keys = [f"good/{number} ü\"'\\ &%20.json" for number in range(12)]
    for key in keys:
        records.put(key, RECORD)
    records.put("bad", b"secret of the object")
    records.ends([*keys, "bad"])
    wait_until(lambda: len(about(records, "All", *keys, "bad")) == 13, every=0.25)
    rows = {row["key"]: row for row in records.rows(*keys, "bad")}
    for event in about(records, "All", *keys, "bad"):
        row = rows.pop(event["detail"]["key"])
        assert (event["source"], event["detail-type"]) == ("cdk-inference", "Inference Result")
        assert [arn.rpartition("/")[2] for arn in event["resources"]] == [records.table]
        detail = event["detail"]
        assert detail.pop("event_id")
        assert detail == {name: row.get(name, "") for name in detail}
        assert {"object", "version", "bucket", "status", "model_version", "recorded_at"} <= set(detail)
        assert not {"prediction", "reason", "confidence"} & set(detail)
    assert rows == {}
    (rejected,) = about(records, "Rejected", *keys, "bad")
    assert (rejected["detail"]["key"], rejected["detail"]["status"]) == ("bad", "REJECTED")


def test_a_replay_that_writes_nothing_is_no_event(records: Watched, cloud: LocalCloud) -> None:
    records.put("again", RECORD)
    records.ends(["again"])
    wait_until(lambda: len(about(records, "All", "again")) == 1, every=0.25)
    row = records.row("again")
    described = {name: row[name] for name in ("key", "etag", "sequencer")} | {"size": int(row["size"])}
    detail = {"bucket": {"name": records.bucket}, "object": described}
    message = {"message_id": "m", "receive_count": "1", "body": {"time": row["event_time"], "detail": detail}}
    answer = cloud.client("stepfunctions").start_sync_execution(
        stateMachineArn=records.machine, input=json.dumps([message])
    )
    assert (answer["status"], json.loads(answer["output"])["batchItemFailures"]) == ("SUCCEEDED", [])
    records.put("after", RECORD)  # the stream is in order: what came before would be here by now
    records.ends(["after"])
    wait_until(lambda: len(about(records, "All", "after")) == 1, every=0.25)
    assert len(about(records, "All", "again")) == 1


@pytest.fixture(scope="module")
def pipe(cloud: LocalCloud) -> StreamPipeDefinition:
    (found,) = (one for one in cloud.pipes.running if isinstance(one, StreamPipeDefinition))
    return found


@pytest.fixture(scope="module")
def role(cloud: LocalCloud, pipe: StreamPipeDefinition) -> PipeRole:
    return PipeRole(
        cloud.endpoint,
        name=pipe.name,
        arn=pipe.arn,
        role_arn=pipe.role_arn,
        services=("dynamodbstreams", "events", "sqs", "dynamodb"),
        refusals=deque(),
        logger=logging.getLogger("test"),
        stopping=threading.Event(),
    )


def allowed(role: PipeRole, service: str, call: Callable[[Any], object]) -> bool:
    with suppress(OutageError), role.acting("test"):
        call(role.client(service))
        return True
    assert "AccessDenied" in role.refusals[-1].message
    return False


def test_the_pipe_may_put_events_on_its_bus_and_on_no_other(role: PipeRole, pipe: StreamPipeDefinition) -> None:
    def put(bus: str) -> Callable[[Any], object]:
        entry = {"Source": "a test", "DetailType": "none", "Detail": "{}", "EventBusName": bus}
        return lambda events: events.put_events(Entries=[entry])

    assert allowed(role, "events", put(pipe.target_arn))
    assert not allowed(role, "events", put("neighbour"))


def test_the_pipe_may_read_its_stream_and_no_other_and_no_table(
    role: PipeRole, pipe: StreamPipeDefinition, cloud: LocalCloud, records: Watched
) -> None:
    other = cloud.client("dynamodb").describe_table(TableName="neighbour")["Table"]["LatestStreamArn"]
    assert allowed(role, "dynamodbstreams", lambda streams: streams.describe_stream(StreamArn=pipe.source_arn))
    assert not allowed(role, "dynamodbstreams", lambda streams: streams.describe_stream(StreamArn=other))
    assert not allowed(role, "dynamodb", lambda dynamodb: dynamodb.scan(TableName=records.table))
