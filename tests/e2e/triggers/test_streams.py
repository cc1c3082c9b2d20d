"""Records of streams, from the sender to the row: of each key the last record has the row, or is a dead letter."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws
from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole
from cdk_inference.local.emulator.stream_pipes import StreamPipeDefinition
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.triggers.messages import Messages

pytestmark = pytest.mark.e2e


def stream_pipes(pipes: PipeRunner) -> list[StreamPipeDefinition]:
    """Wait until the pipes of both streams run, and return them."""

    def running() -> list[StreamPipeDefinition]:
        return [one for one in pipes.running if isinstance(one, StreamPipeDefinition)]

    wait_until(lambda: len(running()) == 2)
    return running()


def put(cloud: LocalCloud, records: Iterable[tuple[str, str]]) -> None:
    """Put records into the stream: partition keys and data."""
    entries = [{"PartitionKey": key, "Data": data.encode()} for key, data in records]
    client = cloud.client("kinesis")
    for start in range(0, len(entries), 500):
        client.put_records(StreamName="clicks", Records=entries[start : start + 500])


def order(number: int) -> str:
    """Return what makes the preprocessing return a number, in the sum of the first two."""
    return f"return [{number}, 0, 1, 1]"


def sums(pipeline: Messages, prefix: str) -> dict[str, int]:
    """Return what the rows have, by the keys that begin with a prefix."""
    rows = [row for row in pipeline.rows() if row["key"].startswith(prefix)]
    assert max(Counter(row["key"] for row in rows).values(), default=1) == 1
    return {row["key"]: row["prediction"]["sums"][0] for row in rows if row["status"] == "SUCCEEDED"}


def letters(pipeline: Messages, prefix: str) -> Counter[str]:
    """Return the ids of the dead letters that begin with a prefix."""
    items = [
        json.loads(message["MessageAttributes"]["Item"]["StringValue"])
        for message in pipeline.messages(pipeline.dead_letter_queue)
    ]
    return Counter(item["id"] for item in items if item["id"].startswith(prefix))


def test_the_last_record_of_each_key_has_the_row(cloud: LocalCloud, clicks: Messages, pipes: PipeRunner) -> None:
    poison = {"o-raise": "raise", "o-exit": "exit", "o-crash": "crash"}
    records = [(f"o-{key}", order(number)) for number in range(4) for key in range(50)]
    put(cloud, [*records[:100], *poison.items(), ("o-refused", "dance"), *records[100:]])
    wait_until(lambda: len(letters(clicks, "o-")) == 3 and set(sums(clicks, "o-").values()) == {3}, every=0.5)
    assert sums(clicks, "o-") == {f"o-{key}": 3 for key in range(50)}
    assert letters(clicks, "o-") == Counter(list(poison))
    assert clicks.row("o-refused")["status"] == "REJECTED"
    row = clicks.row("o-1")
    assert (row["object"], row["size"]) == ("kinesis:clicks/o-1", len(order(3)))
    reasons = {
        message["MessageAttributes"]["Error"]["StringValue"] for message in clicks.messages(clicks.dead_letter_queue)
    }
    assert "RuntimeError" in reasons
    assert clicks.undelivered() == []
    assert pipes.refusals == []


def test_a_stop_in_the_middle_loses_nothing(cloud: LocalCloud, clicks: Messages, pipes: PipeRunner) -> None:
    put(cloud, [(f"s-{key}", order(key)) for key in range(100)])
    wait_until(lambda: sums(clicks, "s-"), every=0.1)
    pipes.stop()
    put(cloud, [(f"s-{key}", order(key)) for key in range(100, 110)])
    pipes.start()
    wait_until(lambda: len(sums(clicks, "s-")) == 110, every=0.5)
    assert sums(clicks, "s-") == {f"s-{key}": key for key in range(110)}


def test_records_that_come_again_change_nothing(cloud: LocalCloud, clicks: Messages, pipes: PipeRunner) -> None:
    (arn,) = (one.arn for one in stream_pipes(pipes) if ":kinesis:" in one.source_arn)
    begin = dict(pipes._checkpoints[arn])
    put(cloud, [(f"d-{key}", order(number)) for number in range(2) for key in range(20)])
    wait_until(lambda: len(sums(clicks, "d-")) == 20 and set(sums(clicks, "d-").values()) == {1}, every=0.5)
    rows = {row["key"]: row for row in clicks.rows() if row["key"].startswith("d-")}
    pipes.stop()
    pipes._checkpoints[arn] = begin  # as if it had been stopped before it noted what was done
    pipes.start()
    put(cloud, [(f"e-{key}", order(0)) for key in range(8)])
    wait_until(lambda: len(sums(clicks, "e-")) == 8, every=0.5)
    again = {row["key"]: row for row in clicks.rows() if row["key"].startswith("d-")}
    assert {key: row["sequencer"] for key, row in again.items()} == {key: row["sequencer"] for key, row in rows.items()}
    assert sums(clicks, "d-") == {f"d-{key}": 1 for key in range(20)}


def test_a_throttled_function_delays_records(cloud: LocalCloud, clicks: Messages, pipes: PipeRunner) -> None:
    dead = len(clicks.dead_bodies())
    before = len(clicks.executions())
    with clicks.throttled("Score"):
        put(cloud, [(f"t-{key}", order(key)) for key in range(10)])
        # Two batches of each of two shards come at most: a fifth one is tried again.
        wait_until(lambda: len(clicks.executions()) - before > 4, every=0.2)
        assert sums(clicks, "t-") == {}
    wait_until(lambda: len(sums(clicks, "t-")) == 10, every=0.5)
    assert len(clicks.dead_bodies()) == dead
    assert clicks.undelivered() == []
    assert pipes.refusals == []


def test_the_last_write_of_each_item_has_the_row(cloud: LocalCloud, users: Messages, pipes: PipeRunner) -> None:
    client = cloud.client("dynamodb")
    name = users.bucket.removeprefix("dynamodb:")
    for number in range(2):
        for key in range(40):
            fields = {field: {"N": str(number + 1)} for field in "abcd"}
            client.put_item(TableName=name, Item={"id": {"S": f"u-{key}"}, **fields})
    client.delete_item(TableName=name, Key={"id": {"S": "u-0"}})
    client.put_item(TableName=name, Item={"id": {"S": "x" * 1025}, "a": {"N": "1"}})
    wait_until(
        lambda: len(users.dead_bodies()) == 1 and list(sums(users, "u-").values()) == [4] * 40,
        lambda: (users.dead_bodies(), sums(users, "u-")),
        every=0.5,
    )
    (letter,) = users.dead_bodies()
    assert json.loads(letter) == {"id": {"S": "x" * 1025}, "a": {"N": "1"}}  # so that it can be written again
    assert users.row("u-0")["object"] == f"{users.bucket}/u-0"
    assert users.undelivered() == []
    assert pipes.refusals == []


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_pipe_may_read_its_stream_and_no_other(cloud: LocalCloud, pipes: PipeRunner, kind: str) -> None:
    (pipe,) = (one for one in stream_pipes(pipes) if f":{kind}:" in one.source_arn)
    role = PipeRole(
        cloud.endpoint,
        name=pipe.name,
        arn=pipe.arn,
        role_arn=pipe.role_arn,
        services=("kinesis", "dynamodbstreams", "sqs"),
        refusals=pipes._refusals.__class__(),
        logger=pipes.health.logger,
        stopping=pipes._stopping,
    )

    def read(stream: str) -> None:
        if kind == "kinesis":
            with role.acting("ListShards"):
                role.client("kinesis").list_shards(StreamARN=stream)
        else:
            with role.acting("DescribeStream"):
                role.client("dynamodbstreams").describe_stream(StreamArn=stream)

    other = pipe.source_arn.replace("clicks", "others").replace("Users", "Others")
    assert other != pipe.source_arn
    read(pipe.source_arn)
    with pytest.raises(OutageError):
        read(other)


def test_whoever_may_put_may_write_to_the_source_and_to_no_other(cloud: LocalCloud, users: Messages) -> None:
    key = cloud.client("iam").create_access_key(UserName="sender")["AccessKey"]
    clients = aws.role_clients(cloud.endpoint, key, ["kinesis", "dynamodb"])
    kinesis, dynamodb = clients["kinesis"], clients["dynamodb"]
    record = {"PartitionKey": "g", "Data": order(1)}
    item = {name: {"S": "g"} for name in ("id", "object", "version")}
    kinesis.put_record(StreamName="clicks", **record)
    dynamodb.put_item(TableName=users.bucket.removeprefix("dynamodb:"), Item=item)
    with pytest.raises(ClientError, match="AccessDenied"):
        kinesis.put_record(StreamName="others", **record)
    with pytest.raises(ClientError, match="AccessDenied"):
        dynamodb.put_item(TableName=users.table, Item=item)
