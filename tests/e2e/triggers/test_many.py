"""Thousands of items for each trigger, with duplicates, disorder, poison, a stop and throttling: nothing is lost."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Watched
from tests.e2e.triggers.messages import order
from tests.e2e.triggers.test_items import line
from tests.e2e.triggers.test_streams import letters, sums
from tests.e2e.triggers.test_streams import order as counted
from tests.e2e.triggers.test_streams import put as put_records
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.triggers.messages import Messages
    from tests.e2e.triggers.parts import Parts

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

COUNT = 5000
POISON = ("raise", "exit", "crash")
PATIENCE = 3600  # seconds: only a hang takes so long


@contextmanager
def disturbed(pipeline: Watched, pipes: PipeRunner, stage: str = "Score") -> Iterator[None]:
    """Stop the pipes once some items of a block have rows, and throttle a function until rows stop coming."""
    yield
    wait_until(lambda: len(pipeline.rows()) > COUNT // 20, lambda: f"{len(pipeline.rows())} rows", every=2)
    with pipeline.throttled(stage):
        pipes.stop()
        pipes.start()
        seen: list[int] = []

        def rows_stopped_coming() -> bool:
            seen.append(len(pipeline.rows()))
            return seen[-2:] == [seen[-1]] * 2

        wait_until(rows_stopped_coming, every=5)
    assert seen[-1] < COUNT // 2, "the items were done before anything disturbed them"


def settled(found: Callable[[], int], wanted: int) -> None:
    wait_until(lambda: found() >= wanted, lambda: f"{found()} of {wanted}", timeout=PATIENCE, every=5)
    assert found() == wanted


def send(pipeline: Messages, bodies: list[str]) -> None:
    """Send messages to a queue, ten at a time."""
    sqs = pipeline.cloud.client("sqs")
    for start in range(0, len(bodies), 10):
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[start : start + 10])]
        assert not sqs.send_message_batch(QueueUrl=pipeline.queue, Entries=entries).get("Failed")


def test_messages_of_a_queue(orders: Messages, pipes: PipeRunner) -> None:
    versions = [(f"m-{number}", version) for number in range(COUNT // 2 - 100) for version in (1, 2)]
    bodies = [order(item, version, a=version) for item, version in [*versions, *versions[:180]]]
    bodies += [f"malformed {number}" for number in range(20)]
    bodies.sort(key=lambda body: zlib.crc32(body.encode()))  # shuffled
    assert len(bodies) == COUNT
    dead = len(orders.dead_bodies())
    with disturbed(orders, pipes):
        send(orders, bodies)

    def rows() -> dict[str, int]:
        found = [row for row in orders.rows() if row["key"].startswith("m-")]
        assert max(Counter(row["key"] for row in found).values(), default=1) == 1
        return {row["key"]: int(row["prediction"]["sums"][0]) - 2 for row in found}

    wait_until(lambda: not orders.waiting(), lambda: f"{len(orders.waiting())} left", timeout=PATIENCE, every=5)
    assert rows() == dict.fromkeys((item for item, _ in versions), 2)
    assert len(orders.dead_bodies()) == dead + 20


def test_runs_of_a_schedule(nightly: Messages, pipes: PipeRunner) -> None:
    orders = [POISON[number % 3] if number % 250 == 0 else counted(number) for number in range(COUNT)]
    runs = [
        json.dumps({"id": f"small/m-{number}", "time": "2026-01-01T00:00:00Z", "input": input_})
        for number, input_ in enumerate(orders)
    ]
    dead = len(nightly.dead_bodies())
    with disturbed(nightly, pipes):
        send(nightly, [*runs, *runs[1:101]])  # a run may be delivered twice
    wait_until(lambda: not nightly.waiting(), lambda: f"{len(nightly.waiting())} left", timeout=PATIENCE, every=5)
    assert sums(nightly, "small/m-") == {f"small/m-{number}": number for number in range(COUNT) if number % 250}
    assert len(nightly.dead_bodies()) == dead + 20


def test_records_of_a_kinesis_stream(cloud: LocalCloud, clicks: Messages, pipes: PipeRunner) -> None:
    poison = [(f"m-{POISON[number % 3]}-{number}", POISON[number % 3]) for number in range(20)]
    records = [(f"m-{key}", counted(number)) for number in range(2) for key in range((COUNT - 20) // 2)]
    for index, one in enumerate(poison):
        records.insert(index * 200, one)
    assert len(records) == COUNT
    with disturbed(clicks, pipes):
        put_records(cloud, records)
    wanted = (COUNT - 20) // 2
    settled(lambda: sum(letters(clicks, "m-").values()) + sum(n == 1 for n in sums(clicks, "m-").values()), wanted + 20)
    assert letters(clicks, "m-") == Counter(key for key, _ in poison)
    assert clicks.undelivered() == []


def test_writes_to_a_table(cloud: LocalCloud, users: Messages, pipes: PipeRunner) -> None:
    client, name = cloud.client("dynamodb"), users.bucket.removeprefix("dynamodb:")
    before = len(users.dead_bodies())

    def write(key: int, version: int) -> None:
        numbers = {field: {"N": str(version)} for field in "abcd"}
        client.put_item(TableName=name, Item={"id": {"S": f"m-{key}"}, **numbers})

    with disturbed(users, pipes), ThreadPoolExecutor(8) as pool:
        for version in (1, 2):
            list(pool.map(lambda key, version=version: write(key, version), range(COUNT // 2)))
    settled(lambda: sum(found == 4 for found in sums(users, "m-").values()), COUNT // 2)
    assert len(users.dead_bodies()) == before


def test_objects_of_a_bucket(cloud: LocalCloud, pipes: PipeRunner) -> None:
    staged = Watched(cloud, "Triggers/Staged")
    poison = {f"inbox/m-{number}": POISON[number % 3] for number in range(20)}
    good = {f"inbox/m-{number}": counted(number) for number in range(20, COUNT)}
    sqs = cloud.client("sqs")
    with disturbed(staged, pipes, "Preprocess"), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: staged.put(one[0], one[1].encode()), {**good, **poison}.items()))
        for message in staged.messages(staged.queue)[:100]:  # EventBridge may deliver twice
            sqs.send_message(QueueUrl=staged.queue, MessageBody=message["Body"])
    ends = staged.ends([*good, *poison], timeout=PATIENCE)
    assert {key for key, end in ends.items() if end == "DEAD_LETTER"} == poison.keys()
    rows = {row["key"]: row["prediction"]["sums"][0] for row in staged.rows() if row["status"] == "SUCCEEDED"}
    assert {key: rows[key] for key in good} == {key: int(key.removeprefix("inbox/m-")) for key in good}


def test_objects_of_a_direct_pipeline(direct: Watched) -> None:
    poison = {f"in/m-{number}": POISON[number % 3] for number in range(20)}
    good = {f"in/m-{number}": counted(number) for number in range(20, COUNT)}
    dead = len(direct.dead_bodies())
    sqs = direct.cloud.client("sqs")
    objects = [*good.items(), *poison.items()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: direct.put(one[0], one[1].encode()), objects[: COUNT // 10]))
        wait_until(lambda: len(direct.rows()) > COUNT // 20, lambda: f"{len(direct.rows())} rows", every=1)
        with direct.throttled("Score"):
            list(pool.map(lambda one: direct.put(one[0], one[1].encode()), objects[COUNT // 10 :]))
            for message in direct.messages(direct.queue)[:100]:  # S3 may notify twice
                sqs.send_message(QueueUrl=direct.queue, MessageBody=message["Body"])
            assert len(direct.rows()) < COUNT // 2
    ends = direct.ends([*good, *poison], timeout=PATIENCE)
    assert {key for key, end in ends.items() if end == "DEAD_LETTER"} == poison.keys()
    assert len(direct.dead_bodies()) == dead + 20
    rows = {row["key"]: row["prediction"]["sums"][0] for row in direct.rows() if row["status"] == "SUCCEEDED"}
    assert {key: rows[key] for key in good} == {key: int(key.removeprefix("in/m-")) for key in good}


def test_lines_of_one_object(lines: Parts, pipes: PipeRunner) -> None:
    data = [line(f"m{number}", number) for number in range(COUNT)]
    data[::250] = [b"{no JSON\n"] * 20
    before = len(lines.rows())
    with disturbed(lines, pipes):
        lines.put("many.jsonl", b"".join(data))
        lines.tell(lines.event("many.jsonl", "0"))
    ends = lines.settle("many.jsonl", COUNT, timeout=PATIENCE)
    assert Counter(ends.values()) == {"SUCCEEDED": COUNT - 20, "REJECTED": 20}
    found = lines.of("many.jsonl")
    sums = {name: int(found[name]["prediction"]["sums"][0]) - 2 for name, end in ends.items() if end == "SUCCEEDED"}
    assert sums == {f"m{number}": number for number in range(COUNT) if number % 250}
    assert len(lines.rows()) == before + COUNT
    assert lines.dead_bodies() == []
