"""The vector index follows the rows: against a server that speaks the API of S3 Vectors."""

from __future__ import annotations

import base64
import json
import math
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.waiting import PATIENCE

from inference_runtime import aws
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX = "arn:aws:s3vectors:eu-central-1:000000000000:bucket/embeddings/index/photos"
ACCESS = (403, "AccessDeniedException")
BUSY = (429, "TooManyRequestsException")


class VectorServer:
    """The vectors by key, how many each request had, and the errors that the next requests meet."""

    def __init__(self) -> None:
        self.vectors: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, int]] = []
        self.troubles: list[tuple[int, str] | None] = []
        self.most = 500

    def answer(self, operation: str, body: dict[str, Any]) -> tuple[int, str]:
        assert body["indexArn"] == INDEX
        entries = body["vectors"] if operation == "PutVectors" else body["keys"]
        self.requests.append((operation, len(entries)))
        if self.troubles and (trouble := self.troubles.pop(0)):
            return trouble
        if not 1 <= len(entries) <= self.most or len(json.dumps(body)) > 20 * 1024**2:
            return 400, "ValidationException"
        if operation == "DeleteVectors":
            for key in entries:
                self.vectors.pop(key, None)
        elif any(map(self._is_invalid, entries)):
            return 400, "ValidationException"
        else:
            self.vectors |= {entry["key"]: entry for entry in entries}
        return 200, ""

    @staticmethod
    def _is_invalid(entry: dict[str, Any]) -> bool:
        filterable = {name: value for name, value in entry["metadata"].items() if name not in {"object", "version"}}
        numbers = entry["data"]["float32"]
        return (
            len(entry["key"]) > 1024
            or len(json.dumps(entry["metadata"])) > 40_000
            or len(json.dumps(filterable)) > 2048
            or not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
            or not any(struct.unpack("<3f", struct.pack("<3f", *numbers[:3])))
        )


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[VectorServer, str]]:
    state = VectorServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, error = state.answer(self.path.strip("/"), body)
            data = json.dumps({"message": "what it says"} if error else {}).encode()
            self.send_response(status)
            if error:
                self.send_header("x-amzn-errortype", error)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def vectors(server: tuple[VectorServer, str], environment: pytest.MonkeyPatch) -> VectorServer:
    state, url = server
    state.__init__()  # type: ignore[misc]
    environment.setenv("AWS_ENDPOINT_URL_S3VECTORS", url)
    return state


@pytest.fixture
def queue(environment: pytest.MonkeyPatch) -> str:
    url = boto3.client("sqs").create_queue(QueueName="refused-embeddings")["QueueUrl"]
    boto3.client("sqs").purge_queue(QueueUrl=url)
    return url


@pytest.fixture
def handler(
    vectors: VectorServer, queue: str, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> Callable[..., Any]:
    variables = {"VECTOR_INDEX": INDEX, "DIMENSION": "3", "DISTANCE_METRIC": "cosine", "DEAD_LETTER_QUEUE": queue}
    for name, value in {**variables, "EMBEDDING_ATTRIBUTE": "embedding"}.items():
        environment.setenv(name, value)
    handle = load("index_embeddings")
    return lambda *records: handle({"Records": list(records)})


def change(name: str, key: str, embedding: object = None, *, number: int = 1, **prediction: Any) -> dict[str, Any]:
    """Return a record of the table's stream, as Lambda gets it."""
    item = Item("id", "inbox", key, None, "etag", 3, "0" * 32, "2026-01-01T00:00:00Z", "m")
    named: dict[str, Any] = {"status": "REJECTED", "reason": "no"}
    if embedding is not None:
        attribute = prediction_attribute({"embedding": embedding, **prediction})
        named = {"status": "SUCCEEDED", "prediction": attribute}
    image = row(item, model_version="m1", inference="cpu", recorded_at="2026-03-22T12:00:00.500+00:00", **named)
    keys = {member: image[member] for member in ("object", "version")}
    changed: dict[str, Any] = {"Keys": keys, "SequenceNumber": f"{number}"}
    if name != "REMOVE":
        changed["NewImage"] = image
    return json.loads(
        json.dumps({"eventName": name, "dynamodb": changed}, default=lambda b: base64.b64encode(b).decode())
    )


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def letters(queue: str) -> dict[str, str]:
    """Return the causes of dead letters by the object."""
    found = boto3.client("sqs").receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
    )
    messages = found.get("Messages", [])
    return {json.loads(m["Body"])["object"]: m["MessageAttributes"]["Cause"]["StringValue"] for m in messages}


DONE = {"batchItemFailures": []}


def test_rows_become_vectors_with_what_queries_need(handler: Any, vectors: VectorServer) -> None:
    long = "größe/" * 120
    records = [
        change("INSERT", "packed", packed(0.5, -1, 2), label="cat"),
        change("MODIFY", long, [0.5, 1, 2], label="x" * 600),
        change("INSERT", "rejected"),
        change("REMOVE", "never there"),
    ]
    assert handler(*records) == handler(*records) == DONE
    found = {one["metadata"]["object"]: one for one in vectors.vectors.values()}
    assert found.keys() == {"inbox/packed", f"inbox/{long}"}
    assert found["inbox/packed"]["data"] == {"float32": [0.5, -1, 2]}
    assert found["inbox/packed"]["metadata"] == {
        "object": "inbox/packed",
        "version": "null#m1",
        "bucket": "inbox",
        "status": "SUCCEEDED",
        "model_version": "m1",
        "label": "cat",
        "recorded_at": 1774180800.5,
    }
    assert "label" not in found[f"inbox/{long}"]["metadata"]


def test_a_vector_goes_with_its_row(handler: Any, vectors: VectorServer) -> None:
    keys = ("deleted", "rejected", "stays")
    handler(*(change("INSERT", key, [1, 2, 3]) for key in keys))
    assert handler(change("REMOVE", "deleted"), change("MODIFY", "rejected")) == DONE
    assert [one["metadata"]["object"] for one in vectors.vectors.values()] == ["inbox/stays"]


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_whatever_changes_come_the_index_is_as_the_last_of_each_row(
    handler: Any, vectors: VectorServer, data: st.DataObject
) -> None:
    vectors.vectors.clear()
    there: dict[str, float] = {}
    rows: set[str] = set()
    records = []
    for number in range(data.draw(st.integers(1, 12))):
        key = data.draw(st.sampled_from("abc"))
        what = data.draw(st.sampled_from(["vector", "none", "wrong", *(["gone"] if key in rows else [])]))
        name = "REMOVE" if what == "gone" else "MODIFY" if key in rows else "INSERT"
        embedding = {"vector": [1, 2, number], "wrong": [1, 2]}.get(what)
        records.append(change(name, key, embedding))
        rows = rows - {key} if what == "gone" else rows | {key}
        there = {k: v for k, v in there.items() if k != key} | ({key: number} if what == "vector" else {})
    size = data.draw(st.integers(1, len(records)))
    for first in range(0, len(records), size):
        for _ in range(data.draw(st.integers(1, 2))):  # a batch may come twice
            assert handler(*records[first : first + size]) == DONE
    found = {one["metadata"]["object"]: one["data"]["float32"][2] for one in vectors.vectors.values()}
    assert found == {f"inbox/{key}": number for key, number in there.items()}


@pytest.mark.parametrize("trouble", [BUSY, ACCESS])
def test_what_the_service_does_not_take_now_comes_again_from_there(
    handler: Any, vectors: VectorServer, trouble: tuple[int, str]
) -> None:
    records = [change("INSERT", f"{n}", [1, 2, 3 + n], number=n) for n in range(1200)]
    vectors.troubles = [None, trouble, trouble]  # botocore tries twice
    assert handler(*records) == {"batchItemFailures": [{"itemIdentifier": "500"}]}
    assert len(vectors.vectors) == 500
    vectors.troubles = []
    assert handler(*records[500:]) == DONE
    assert len(vectors.vectors) == 1200
    assert max(count for _, count in vectors.requests) == 500


def test_vectors_that_the_index_never_takes_fail_alone(handler: Any, vectors: VectorServer, queue: str) -> None:
    handler(change("INSERT", "zeros", [1, 2, 3]))
    wrong = {
        "short": ([1, 2], "embedding has 2 numbers, expected 3"),
        "zeros": ([0, 0, 0], "embedding has only zeros, which have no direction"),
        "odd": (b"12345", "embedding has 5 bytes, expected a multiple of 4"),
        "text": ("a text", "embedding is neither bytes nor a list of numbers"),
        "texts": (["a"], "embedding is neither bytes nor a list of numbers"),
        "nan": (packed(1, 2, math.nan), "embedding has a number that is not finite"),
        "huge": ([1, 2, 1e39], "embedding has a number that is too large for float32"),
        "tiny": ([1e-60, 0, -1e-60], "embedding has only zeros, which have no direction"),
    }
    records = [change("MODIFY", key, embedding) for key, (embedding, _) in wrong.items()]
    assert handler(records[0], change("INSERT", "good", [1, 2, 3]), *records[1:]) == DONE
    assert [one["metadata"]["object"] for one in vectors.vectors.values()] == ["inbox/good"]
    assert letters(queue) == {f"inbox/{key}": cause for key, (_, cause) in wrong.items()}


def test_vectors_that_the_service_refuses_as_invalid_fail_alone(
    handler: Any, vectors: VectorServer, queue: str
) -> None:
    handler(change("INSERT", "0", [1, 2, 3]))
    records = [change("MODIFY", f"{n}", [1, 2, 3 + n], number=n) for n in range(700)]
    for n in (0, 123, 699):  # rows that somebody else wrote, with more metadata than a vector may have
        records[n]["dynamodb"]["NewImage"]["model_version"] = {"S": "m" * 2048}
    assert handler(*records) == DONE
    found = {one["metadata"]["object"] for one in vectors.vectors.values()}
    assert found == {f"inbox/{n}" for n in range(700) if n not in {0, 123, 699}}
    buried = letters(queue)
    assert buried.keys() == {"inbox/0", "inbox/123", "inbox/699"}
    assert all("ValidationException" in cause and "what it says" in cause for cause in buried.values())
    assert len(vectors.requests) < 60


def test_a_request_with_the_largest_vectors_stays_within_the_limit(
    vectors: VectorServer, handler: Any, environment: pytest.MonkeyPatch, load: Callable[[str], Any]
) -> None:
    environment.setenv("DIMENSION", "4096")
    environment.setattr(aws, "READ_TIMEOUT", PATIENCE)  # the server parses 20 MB in a thread of this process
    numbers = packed(*(-1.1754943508222875e-38 * 10 * (number + 1) for number in range(4096)))
    records = [change("INSERT", f"{'k' * 900}{number}", numbers, number=number) for number in range(200)]
    assert load("index_embeddings")({"Records": records}) == DONE
    assert [count for _, count in vectors.requests] == [170, 30]
