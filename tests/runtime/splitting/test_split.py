"""The function that takes objects apart: every item is in the queue, or the object is a dead letter."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import tracemalloc
import zipfile
from base64 import b64decode
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from tests.runtime.invocation import Context
from tests.runtime.splitting.stored import item_of
from tests.runtime.splitting.test_videos import video
from tests.runtime.storage_server import storage_server

from inference_runtime.aws import client
from inference_runtime.errors import LittleTimeError, RetryableError, StageError
from inference_runtime.splitting.formats import Chunk
from inference_runtime.splitting.json_lines import JsonLines
from inference_runtime.splitting.object_writer import ObjectWriter
from inference_runtime.splitting.sender import MOST_BYTES, Sender
from inference_runtime.splitting.source import Source
from inference_runtime.splitting.splitter import Splitter, Task
from inference_runtime.stages.item import Item, pad_sequencer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from conftest import Inbox

JSON_LINES = {"kind": "json_lines", "item_id": None}
MACHINE = "arn:aws:states:eu-central-1:000000000000:stateMachine:split"


@pytest.fixture
def queues(endpoint: str, environment: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The queues of items, objects and dead letters."""
    sqs = boto3.resource("sqs")
    found = {name: sqs.create_queue(QueueName=name) for name in ("items", "objects", "dead")}
    yield found
    for queue in found.values():
        queue.delete()


@pytest.fixture
def split(
    queues: dict[str, Any], bucket: str, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> Callable[..., Any]:
    """Load the handler for a format, which takes messages of the inbox and returns those to deliver again."""

    def configure(form: dict[str, Any] = JSON_LINES, **variables: str) -> Any:
        names = {"ITEMS_QUEUE_URL": "items", "OBJECTS_QUEUE_URL": "objects", "DEAD_LETTER_QUEUE": "dead"}
        defaults = {
            "BUCKET": bucket,
            "INLINE_BYTES": "4000",
            "MAX_RECEIVE_COUNT": "3",
            "ITEMS_FORMAT": json.dumps(form),
        }
        for name in ("STATE_MACHINE_ARN", "CHUNK_BYTES", "ALWAYS_WORKFLOW", "ROW_VERSIONS"):
            environment.delenv(name, raising=False)
        for name, value in {**{name: queues[of].url for name, of in names.items()}, **defaults, **variables}.items():
            environment.setenv(name, value)
        handler = load("split")

        def call(*messages: dict[str, Any], times: int = 1, seconds: float = 60) -> list[str]:
            records = [
                {
                    "messageId": message["message_id"],
                    "body": message["body"] if "body" in message else json.dumps(message),
                    "attributes": {"ApproximateReceiveCount": str(times)},
                }
                for message in messages
            ]
            answer = handler({"Records": records}, Context(seconds))
            return [one["itemIdentifier"] for one in answer["batchItemFailures"]]

        call.handler = handler  # type: ignore[attr-defined]
        return call

    return configure


def received(queue: Any) -> list[dict[str, Any]]:
    """Take all messages out of a queue, with their attributes."""
    found: list[dict[str, Any]] = []
    while messages := queue.receive_messages(MaxNumberOfMessages=10, MessageAttributeNames=["All"]):
        for message in messages:
            said = {name: value["StringValue"] for name, value in (message.message_attributes or {}).items()}
            found.append({"message_id": message.message_id, "body": message.body, **said})
            message.delete()
    return found


def items(queue: Any) -> dict[str, Item]:
    found = [Item.from_message(message) for message in received(queue)]
    assert len({item.key for item in found}) == len(found)
    return {item.key: item for item in found}


def test_each_line_becomes_a_message_that_stages_take(split: Any, inbox: Inbox, queues: dict[str, Any]) -> None:
    lines = [
        b'{"a": "\xc3\xa4\\u0000"}',
        b"",
        b"\x00\xff",
        "\ufffe".encode(),
        b"x" * 5000,
        *[b"%d" % n for n in range(20)],
    ]
    message = inbox.put("in/a b.jsonl", b"\r\n".join(lines), sequencer="00AB")
    assert split()(message) == []
    found = items(queues["items"])
    assert {key: item.payload for key, item in found.items()} == {
        f"in/a b.jsonl#{number}": None if len(line) == 5000 else line for number, line in enumerate(lines, 1) if line
    }
    whole = Item.from_message({**message, "body": message})
    assert {(item.bucket, item.event_time) for item in found.values()} == {(f"s3:{inbox.bucket}", whole.event_time)}
    assert {int(item.sequencer) for item in found.values()} == {int(pad_sequencer("00AB"), 16)}
    large = found["in/a b.jsonl#5"]
    assert large.range is not None
    start = len(b"\r\n".join(lines[:4])) + 2
    assert (large.range.start, large.range.end, large.range.etag) == (start, start + 5000, whole.etag)
    assert received(queues["dead"]) == []


def test_an_item_that_fits_no_message_and_has_no_range_is_copied(
    split: Any, inbox: Inbox, queues: dict[str, Any], s3: S3Client
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in (("small", b"a"), ("large", bytes(range(256)) * 100), ("last", b"z")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    message = inbox.put("a.tgz", file.getvalue())
    assert split({"kind": "tar"})(message) == []
    found = items(queues["items"])
    assert (found["a.tgz#small"].payload, found["a.tgz#last"].payload) == (b"a", b"z")
    part = found["a.tgz#large"].range
    assert part is not None
    body = s3.get_object(**part.request())["Body"].read()  # type: ignore[arg-type]
    assert part.content(body) == bytes(range(256)) * 100
    assert (part.bucket, part.key.partition("/")[0], part.etag) == (inbox.bucket, "items", None)


def test_a_member_of_a_zip_is_sent_as_base64_or_by_reference(split: Any, inbox: Inbox, queues: dict[str, Any]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/small.bin", b"\xff\x00")
        archive.writestr("a/large.bin", b"\xff" * 5000)
        archive.writestr("none", b"")
    assert split({"kind": "zip", "suffixes": [".bin"]})(inbox.put("a.zip", file.getvalue())) == []
    found = items(queues["items"])
    assert found["a.zip#a/small.bin"].payload == b"\xff\x00"
    assert found["a.zip#a/large.bin"].size == 5000
    assert len(found) == 2


DIGEST = """
    import hashlib
    import numpy as np
    def function(data, item):
        return np.frombuffer(hashlib.sha256(data).digest()[:4], np.uint8).astype(np.float32)
"""
ROWS = [{"id": 1, "text": "a"}, {"id": 2, "text": "ä" * 1500}, {"id": 3, "text": "\n"}]


def archived(write: Callable[[Any, str, bytes], Any], opened: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    with opened(file) as archive:
        for row in ROWS:
            write(archive, str(row["id"]), json.dumps(row).encode())
    return file.getvalue()


def add_to_tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


def csv_file(encoding: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "text"])
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode(encoding)


FILES = {
    "json_lines": b"\n".join(json.dumps(row).encode() for row in ROWS),
    "csv": csv_file("latin-1"),
    "zip": archived(zipfile.ZipFile.writestr, partial(zipfile.ZipFile, mode="w", compression=zipfile.ZIP_DEFLATED)),
    "tar": archived(add_to_tar, partial(tarfile.open, None, "w")),
    "tar.gz": archived(add_to_tar, partial(tarfile.open, None, "w:gz")),
    "parquet": parquet(),
}


@pytest.mark.parametrize("inline", ["20000", "600"], ids=["inline", "by reference"])
@pytest.mark.parametrize("name", FILES)
def test_preprocessing_gets_each_item(
    split: Any,
    inbox: Inbox,
    queues: dict[str, Any],
    stage: Callable[[str], str],
    load: Callable[[str], Any],
    environment: pytest.MonkeyPatch,
    name: str,
    inline: str,
) -> None:
    options = {"csv": {"encoding": "latin-1"}}.get(name, {})
    call = split({"kind": name.partition(".")[0], **options}, INLINE_BYTES=inline)
    assert call(inbox.put("a", FILES[name])) == []
    stage(DIGEST)
    environment.setenv("MODEL_INPUTS", json.dumps([{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]))
    messages = received(queues["items"])
    assert sum("range" in json.loads(message["body"])["item"] for message in messages) == (inline == "600")
    answer = load("preprocess")({"messages": messages})
    (group,) = answer["groups"]
    found = np.frombuffer(b64decode(group["inputs"]["x"]["data"]), np.float32).astype(np.uint8).reshape(-1, 4)
    expected = [f"id,text\n{row}" for row in csv_file("utf-8").decode().split("\r\n")[1:-1]]
    if name == "parquet":
        expected = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in ROWS]
    elif name != "csv":
        expected = [json.dumps(row) for row in ROWS]
    assert {item["key"]: row.tobytes() for item, row in zip(answer["items"], found, strict=True)} == {
        f"a#{number}": hashlib.sha256(text.encode()).digest()[:4] for number, text in enumerate(expected, 1)
    }


def test_a_large_object_is_left_to_the_state_machine_once(
    split: Any, inbox: Inbox, queues: dict[str, Any], s3: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = States()
    monkeypatch.setattr("inference_runtime.aws._session", Session(states))
    call = split(
        {"kind": "json_lines", "item_id": "id"},
        STATE_MACHINE_ARN=MACHINE,
        CHUNK_BYTES="40",
        ALWAYS_WORKFLOW="1",
        ROW_VERSIONS='["m0"]',
    )
    lines = [json.dumps({"id": number % 4, "n": number}).encode() for number in range(10)]
    message = inbox.put("a.jsonl", b"\n".join(lines))
    item = Item.from_message({**message, "body": message})
    assert call(message) == []
    assert received(queues["items"]) == []
    [(name, given)] = states.started.items()
    assert name == item.id
    assert given["object"]["id"] == item.id
    assert given["versions"] == ["m0"]
    assert json.loads(given["message"])["detail"] == message["detail"]
    place = given["chunks"]
    text = s3.get_object(Bucket=place["bucket"], Key=place["key"])["Body"].read().decode()
    chunks = [json.loads(line) for line in text.splitlines()]
    assert len(chunks) == place["count"] > 2
    answers = [call.handler(chunk, Context(60)) for chunk in chunks]
    assert sum(answer["items"] for answer in answers) == 10
    assert all(answer["rest"] is None for answer in answers)
    found = items(queues["items"])
    assert {key: item.payload for key, item in found.items()} == {
        f"a.jsonl#{number}" if number < 4 else f"a.jsonl##{number + 1}": line for number, line in enumerate(lines)
    }
    written = [one["Key"] for one in s3.list_objects_v2(Bucket=inbox.bucket, Prefix=given["names"])["Contents"]]
    names = b"".join(s3.get_object(Bucket=inbox.bucket, Key=key)["Body"].read() for key in written)
    assert [json.loads(line) for line in names.splitlines()] == list(
        dict(sorted(((item.key, 0) for item in found.values()), key=lambda one: lines.index(found[one[0]].payload)))
    )
    # A duplicate of the event starts nothing, unless the execution failed.
    states.status = "SUCCEEDED"
    assert call(message) == []
    assert list(states.started) == [item.id]
    states.status = "FAILED"
    assert call(message) == []
    assert list(states.started) == [item.id, f"{item.id}-1"]


def test_a_huge_object_has_larger_chunks(
    split: Any, inbox: Inbox, queues: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of all chunks must fit a state of Step Functions, also if all fail."""
    states = States()
    monkeypatch.setattr("inference_runtime.aws._session", Session(states))
    assert split(STATE_MACHINE_ARN=MACHINE, CHUNK_BYTES="10")(inbox.put("a.jsonl", b"1234\n" * 10_000)) == []
    [given] = states.started.values()
    assert given["chunks"]["count"] == 500


class States:
    """The part of Step Functions that keeps names of executions."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.status = "RUNNING"

    def start_execution(self, **given: str) -> None:
        assert given["stateMachineArn"] == MACHINE
        if given["name"] in self.started:
            raise ClientError({"Error": {"Code": "ExecutionAlreadyExists"}}, "StartExecution")
        self.started[given["name"]] = json.loads(given["input"])

    def describe_execution(self, **given: str) -> dict[str, str]:
        assert given["executionArn"].startswith(MACHINE.replace("stateMachine", "execution") + ":")
        return {"status": self.status}

    def close(self) -> None:
        """Do nothing."""


class Session:
    """A session of botocore with this client for Step Functions."""

    def __init__(self, states: States) -> None:
        from inference_runtime import aws

        self._session, self._states = aws._session, states

    def create_client(self, service: str, **options: Any) -> Any:
        return self._states if service == "stepfunctions" else self._session.create_client(service, **options)


def test_a_large_object_without_a_state_machine_is_done_in_parts(
    split: Any, inbox: Inbox, queues: dict[str, Any]
) -> None:
    call = split({"kind": "csv", "delimiter": ";"}, CHUNK_BYTES="20")
    rows = [f'{number};"\n"' for number in range(10)]
    assert call(inbox.put("a.csv", "\n".join(["a;b", *rows]).encode())) == []
    parts = received(queues["objects"])
    assert len(parts) > 2
    assert call(*parts) == []
    found = items(queues["items"])
    assert {key: item.payload for key, item in found.items()} == {
        f"a.csv#{number}": f"a;b\n{row}".encode() for number, row in enumerate(rows, 1)
    }


def test_the_rest_is_handed_on_when_the_time_is_over(
    split: Any, inbox: Inbox, queues: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = split({"kind": "json_lines", "item_id": "id"})
    lines = [b'{"id": %d}' % (number % 5) for number in range(12)]
    message = inbox.put("a.jsonl", b"\n".join(lines))
    left = iter([60, 50, 50, 50, 5, *[60] * 50])
    monkeypatch.setattr("inference_runtime.stages.deadline.Deadline.left", lambda _: next(left))
    assert call(message) == []
    [rest] = received(queues["objects"])
    assert call(rest) == []
    assert set(items(queues["items"])) == {f"a.jsonl#{n}" for n in range(5)} | {f"a.jsonl##{n}" for n in range(6, 13)}
    left = iter([60, *[5] * 50])
    chunk = json.loads(rest["body"])
    with pytest.raises(LittleTimeError, match="before an item was sent"):
        call.handler(chunk, Context(60))
    left = iter([60, 50, 50, *[5] * 50])
    answer = call.handler(chunk, Context(60))
    assert (answer["items"], answer["rest"]["chunk"]["skip"]) == (2, chunk["chunk"]["skip"] + 2)


def test_the_rest_of_a_video_goes_on_from_a_key_frame(
    split: Any, inbox: Inbox, queues: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = split({"kind": "video", "every": 4, "max_seconds": 60, "max_pixels": 10_000})
    message = inbox.put("a.mp4", video("h264"))  # with key frames 1, 8, 15, 22 and 29
    rests = []
    for seconds in ([60, 60, 50, 50, 50], [60, 60], [60, 60]):
        left = iter([*seconds, *[5] * 50])
        monkeypatch.setattr("inference_runtime.stages.deadline.Deadline.left", lambda _, left=left: next(left))
        assert call(message) == []
        [message] = received(queues["objects"])
        task = json.loads(message["body"])["chunk"]
        rests.append((task["chunk"]["number"], task["skip"]))
    assert rests == [(8, 0), (8, 1), (15, 0)]
    left = iter([60, 5, *[60] * 50])
    monkeypatch.setattr("inference_runtime.stages.deadline.Deadline.left", lambda _: next(left))
    assert call(message) == [message["message_id"]]  # no time for a single frame
    assert call(message) == []
    assert set(items(queues["items"])) == {f"a.mp4#{number}" for number in range(1, 31, 4)}


@pytest.mark.parametrize(
    ("form", "body", "error", "cause"),
    [
        ({"kind": "zip"}, b"no zip", "CorruptObjectError", "object must be a zip archive"),
        ({"kind": "tar"}, b"", "CorruptObjectError", "object must be a tar archive"),
        ({"kind": "csv", "item_id": "id"}, b"a,b\n", "CorruptObjectError", "must have the column 'id' once"),
        ({"kind": "json_lines"}, None, "ObjectGoneError", "object no longer exists"),
    ],
)
def test_an_object_that_is_not_what_it_claims_is_a_dead_letter_at_once(
    split: Any, inbox: Inbox, queues: dict[str, Any], form: Any, body: bytes | None, error: str, cause: str
) -> None:
    message = inbox.message("a") if body is None else inbox.put("a", body)
    assert split(form)(message) == []
    [letter] = received(queues["dead"])
    assert (letter["Error"], letter["body"]) == (error, json.dumps(message))
    assert cause in letter["Cause"]


def test_an_item_whose_reference_does_not_fit_a_message_fails(split: Any, inbox: Inbox, queues: dict[str, Any]) -> None:
    message = inbox.put("k" * 300, b"1\n" + b"2" * 600)
    assert split(INLINE_BYTES="600")(message) == []
    [letter] = received(queues["dead"])
    assert letter["Error"] == "CorruptObjectError"
    assert "must fit messages of 600 bytes" in letter["Cause"]


def test_a_message_that_is_none_is_a_dead_letter_and_spares_others(
    split: Any, inbox: Inbox, queues: dict[str, Any]
) -> None:
    bad = {"message_id": "bad", "body": "no event"}
    empty = inbox.put("empty", b"")
    assert split()(bad, inbox.put("good", b"1"), empty) == []
    [letter] = received(queues["dead"])
    assert (letter["Error"], letter["body"]) == ("MalformedMessageError", "no event")
    assert set(items(queues["items"])) == {"good#1"}


def test_an_overwritten_object_is_left_to_its_newer_event(split: Any, inbox: Inbox, queues: dict[str, Any]) -> None:
    old = inbox.put("a", b"1\n2")
    new = inbox.put("a", b"3")
    call = split()
    assert call(old, new) == []
    assert [item.payload for item in items(queues["items"]).values()] == [b"3"]
    chunk = Task(item=Item.from_message({**old, "body": old}), chunk=Chunk()).to_json()
    assert call.handler({"chunk": chunk}, Context(60)) == {"items": 0, "rest": None, "superseded": True}
    assert received(queues["dead"]) == []


def test_a_service_that_is_out_of_order_is_tried_again_however_often(
    split: Any, inbox: Inbox, queues: dict[str, Any]
) -> None:
    message = inbox.put("a", b"1")
    call = split(ITEMS_QUEUE_URL=queues["items"].url + "-not-there")
    assert call(message, times=9) == [message["message_id"]]
    assert split()(message, times=9) == []
    assert set(items(queues["items"])) == {"a#1"}
    assert received(queues["dead"]) == []


def test_a_message_that_fails_often_enough_is_a_dead_letter(
    split: Any, inbox: Inbox, queues: dict[str, Any], environment: pytest.MonkeyPatch
) -> None:
    bad = {"message_id": "bad", "body": '{"chunk": {}}'}
    call = split()
    assert call(bad, times=2) == ["bad"]
    assert call(bad, times=3) == []
    assert [letter["Error"] for letter in received(queues["dead"])] == ["KeyError"]
    # Invocations that were killed said nothing.
    assert call(inbox.put("a", b"1"), times=10) == []
    [letter] = received(queues["dead"])
    assert "delivered 10 times, and never answered" in letter["Cause"]
    assert received(queues["items"]) == []
    environment.setenv("DEAD_LETTER_QUEUE", queues["dead"].url + "-not-there")
    assert call(bad, times=9) == ["bad"]


class Queue:
    """A client of SQS that refuses parts of batches as it is told to."""

    def __init__(self, *refusals: set[str]) -> None:
        self.refusals = list(refusals)
        self.calls: list[list[str]] = []

    def send_message_batch(self, **given: Any) -> dict[str, Any]:
        refused = self.refusals.pop(0) if self.refusals else set()
        entries = {entry["Id"]: entry["MessageBody"] for entry in given["Entries"]}
        self.calls.append([body for body in entries.values() if body not in refused])
        failed = [one for one, body in entries.items() if body in refused]
        return {"Failed": [{"Id": one, "Code": "ServiceUnavailable", "SenderFault": False} for one in failed]}


def send(queue: Queue, *bodies: str, error: Exception | None = None) -> None:
    with Sender(queue, "url", pause=0) as sender:
        for body in bodies:
            sender.send(body)
        if error is not None:
            raise error


def test_what_sqs_did_not_take_of_a_batch_is_sent_again() -> None:
    queue = Queue({"b", "c"}, {"c"})
    send(queue, *"abc")
    assert queue.calls == [["a"], ["b"], ["c"]]
    queue = Queue(*[{"b"}] * 9)
    with pytest.raises(RetryableError, match=r"cannot send 1 messages.*ServiceUnavailable"):
        send(queue, *"ab")
    assert len(queue.calls) == 5


def test_batches_keep_to_the_limits_of_sqs() -> None:
    queue = Queue()
    bodies = ["ä" * 60_000, "b" * (MOST_BYTES - 1), "c", *"d" * 25]
    send(queue, *bodies)
    assert sorted(body for call in queue.calls for body in call) == sorted(bodies)
    assert all(len(call) <= 10 and sum(len(body.encode()) for body in call) <= MOST_BYTES for call in queue.calls)
    assert len(queue.calls) == 5


def test_an_error_ends_sending_without_waiting_for_the_rest() -> None:
    queue = Queue()
    with pytest.raises(KeyError):
        send(queue, "a", error=KeyError())
    assert queue.calls == []


def write(s3: S3Client, bucket: str, key: str, *blocks: bytes, error: Exception | None = None) -> int:
    with ObjectWriter(s3, bucket, key, part_bytes=5 * 1024**2) as writer:
        for block in blocks:
            writer.write(block)
        if error is not None:
            raise error
    return writer.size


def test_a_large_object_is_written_in_parts_or_not_at_all(s3: S3Client, bucket: str) -> None:
    blocks = [bytes([number]) * 4 * 1024**2 for number in range(3)]
    assert write(s3, bucket, "large", *blocks) == 12 * 1024**2
    assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == b"".join(blocks)
    with pytest.raises(KeyError):
        write(s3, bucket, "broken", *blocks, error=KeyError())
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    with pytest.raises(RetryableError, match="cannot write s3://nowhere/x"):
        write(s3, "nowhere", "x", b"x")


def test_a_connection_that_breaks_is_tried_again(environment: pytest.MonkeyPatch) -> None:
    with storage_server() as server:
        environment.setenv("AWS_ENDPOINT_URL", server.url)
        server.objects["/photos/folder/a.bin"] = b"0123456789"
        source = Source(client("s3", s3={"addressing_style": "path"}), item_of(10))
        server.troubles = ["cut"]
        assert source.read(2, 5) == b"234"
        assert [headers["if-match"] for _, _, headers in server.requests] == ['"e"'] * 2
        server.troubles = ["cut"] * 9
        with pytest.raises(RetryableError, match="cannot read"):
            source.read(0, 10)


class Large:
    """An object of 200 MB, of which nobody keeps more than a range."""

    LINE = b'{"id": "%014d", "text": "' + b"x" * 19_960 + b'"}\n'
    COUNT = 10_100

    def get_object(self, **asked: Any) -> dict[str, Any]:
        first, last = map(int, asked["Range"].removeprefix("bytes=").split("-"))
        length = len(self.LINE % 0)
        lines = range(first // length, min(last // length + 1, self.COUNT))
        data = b"".join(self.LINE % number for number in lines)
        skipped = first - lines.start * length
        return {"Body": io.BytesIO(data[skipped : skipped + last + 1 - first])}


class Counted(Queue):
    """A queue that keeps no messages."""

    sent = 0

    def send_message_batch(self, **given: Any) -> dict[str, Any]:
        self.sent += len(given["Entries"])
        return {}


def test_memory_does_not_grow_with_the_object() -> None:
    """Blocks of 4 MiB, some of them at once, and what waits for the queue."""
    queue, item = Counted(), item_of(len(Large.LINE % 0) * Large.COUNT)
    large: Any = Large()
    splitter = Splitter(s3=large, sqs=queue, form=JsonLines("id"), queue_url="url", bucket="b", inline_bytes=25_000)
    tracemalloc.start()
    try:
        assert splitter.split(Task(item=item, chunk=Chunk()), lambda: False) == (Large.COUNT, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert item.size > 200_000_000
    assert queue.sent == Large.COUNT
    assert peak < 30_000_000


@pytest.mark.parametrize("form", [{}, {"kind": "xml"}, {"kind": "zip", "columns": ["a"]}])
def test_a_format_that_there_is_not_fails_at_the_start(split: Any, form: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="the format"):
        split(form)
