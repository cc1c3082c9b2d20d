"""A process that speaks Lambda's Runtime API streams text: a server here plays the API as AWS documents it."""

from __future__ import annotations

import base64
import json
import os
import queue
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from tests.runtime.engine.drivers import graphs
from tests.runtime.engine.drivers.graphs import END
from tests.runtime.invocation import Context
from tests.waiting import PATIENCE

from inference_runtime.engine.drivers.search import Hypothesis
from inference_runtime.errors import LittleTimeError
from inference_runtime.handlers import write_text
from inference_runtime.http.runtime_api import HTTP_RESPONSE, RuntimeApi
from inference_runtime.http.text_events import TextWriter
from inference_runtime.stages.builtin.byte_tokens import ByteTokens
from inference_runtime.stages.inputs import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inference_runtime.tensors.tensor import Tensor

ROOT = Path(__file__).parents[3]
STEPS, BYTES = 6, ["a", "b", "c", "d", "\u00c3", "\u00a9", "g"]  # two tokens of half of an e with an accent
PREPROCESS = """
import time
import numpy as np
from inference_runtime.errors import RejectItem

def preprocess(data, item):
    text = data.decode()
    if "<end>" in text:
        raise RejectItem("text contains '<end>', which the model takes for markup of the prompt")
    if text == "break":
        raise ValueError("a bug")
    if text == "wait":
        time.sleep(3600)
    words = [int(word) for word in text.split()]
    *tokens, most = words
    return {
        "source": np.full(3, 0.3, np.float32),
        "asked": np.array(tokens, np.int64),
        "mask": np.ones(len(tokens), np.int64),
        "most": np.array(most, np.int64),
    }
"""
INPUTS = [
    {"name": "source", "dtype": "float32", "shape": ["batch", 3]},
    {"name": "asked", "dtype": "int64", "shape": ["batch", "tokens"]},
    {"name": "mask", "dtype": "int64", "shape": ["batch", "tokens"]},
    {"name": "most", "dtype": "int64", "shape": ["batch"]},
]
SNAPSHOTS = """
before, after = [], []
def register_before_snapshot(function, *arguments, **named): before.append((function, arguments, named))
def register_after_restore(function, *arguments, **named): after.append((function, arguments, named))
def get_before_snapshot(): return before
def get_after_restore(): return after
"""


class Answer(NamedTuple):
    """The answer of the process to an invocation."""

    path: str
    headers: dict[str, str]
    chunks: list[bytes]
    trailers: dict[str, str]

    @property
    def prelude(self) -> dict[str, Any]:
        """The status and the headers of the response."""
        said, _, _ = b"".join(self.chunks).partition(bytes(8))
        found: dict[str, Any] = json.loads(said)
        return found

    @property
    def body(self) -> bytes:
        """The bytes that the caller reads."""
        return b"".join(self.chunks).partition(bytes(8))[2]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The name and the data of each event."""
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
        return found


class Lambda:
    """The Runtime API of one environment."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[tuple[str, Any, float]] = queue.Queue()
        self.answers: queue.Queue[Answer] = queue.Queue()
        self.asked: list[str] = []
        self.after_chunks: dict[str, Callable[[int], bool]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(self.path)
                headers, body = {}, b""
                if self.path.endswith("/invocation/next"):
                    name, event, seconds = server.waiting.get()
                    deadline = int((seconds + time.time()) * 1000)
                    body = json.dumps(event).encode()
                    headers = {
                        "Lambda-Runtime-Aws-Request-Id": name,
                        "Lambda-Runtime-Deadline-Ms": str(deadline),
                        "Lambda-Runtime-Trace-Id": "Root=1-2-3",
                    }
                self._answer(200, body, headers)

            def do_POST(self) -> None:
                chunks, trailers = [], {}
                if self.headers.get("Transfer-Encoding") == "chunked":
                    broken = server.after_chunks.get(self.path.split("/")[-2], lambda _: False)
                    while size := int(self.rfile.readline(), 16):
                        chunks.append(self.rfile.read(size))
                        self.rfile.readline()
                        if broken(len(chunks)):
                            self.close_connection = True
                            self.connection.shutdown(2)
                            server.answers.put(Answer(self.path, dict(self.headers), chunks, {}))
                            return
                    while line := self.rfile.readline().strip():
                        name, _, value = line.decode().partition(": ")
                        trailers[name] = value
                else:
                    chunks.append(self.rfile.read(int(self.headers["Content-Length"])))
                server.answers.put(Answer(self.path, dict(self.headers), chunks, trailers))
                self._answer(202, b"{}", {})

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def invoke(self, event: Any, name: str = "r1", seconds: float = PATIENCE) -> Answer:
        """Hand an event to the process, and wait for its answer."""
        self.waiting.put((name, event, seconds))
        answer = self.answers.get(timeout=PATIENCE)
        assert f"/{name}/" in answer.path
        return answer

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def package(folder: Path, **driver: Any) -> dict[str, str]:
    """Write what the function has in its folder, and return its variables."""
    description = graphs.description(
        **{
            "start": [],
            "end": [END],
            "max_steps": STEPS,
            "prompt": "asked",
            "mask": "mask",
            "limit": "most",
            "position": "place",
            "whole_prefix": False,
            "states": {"present": "past"},
            **driver,
        }
    )
    decoder = graphs.decoder(cached=True, places=2, placed=True, masked=True)
    graphs.write(folder / "model", description, {"encoder": graphs.encoder(), "decoder": decoder})
    vocabulary = {token: number for number, token in enumerate(BYTES)}
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": [], "decoder": {"type": "ByteLevel"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "asking.py").write_text(PREPROCESS)
    return {
        "LAMBDA_TASK_ROOT": str(folder),
        "PREPROCESS_FUNCTION": "asking:preprocess",
        "MODEL_INPUTS": json.dumps(INPUTS),
        "MODEL_VERSION": "m1",
        "MAX_OBJECT_BYTES": "40",
        "TOKENIZER_FILE": "tokenizer.json",
    }


@pytest.fixture(scope="module")
def lambda_() -> Iterator[Lambda]:
    server = Lambda()
    yield server
    server.close()


@pytest.fixture(scope="module")
def process(lambda_: Lambda, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """The function's process, as its wrapper script starts it."""
    started = start(lambda_, tmp_path_factory.mktemp("function"), min_steps=4)
    yield started
    lines = [json.loads(line) for line in stop(started).splitlines()]
    assert {line["requestId"] for line in lines} <= {"r1", "gone"}
    bugs = [line for line in lines if line.get("errorType") == "ValueError"]  # none if the test of it did not run
    assert all((bug["level"], "a bug" in bug["stackTrace"]) == ("ERROR", True) for bug in bugs)


def start(api: Lambda, folder: Path, variables: dict[str, str] | None = None, **driver: Any) -> Any:
    environment = os.environ | package(folder, **driver) | (variables or {})
    environment |= {
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "lambda_src")]),
    }
    command = [sys.executable, "-m", "inference_runtime.handlers.write_text"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)


def stop(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    said, _ = process.communicate()
    return said.decode()


def request(body: bytes, kind: str = "text/plain") -> dict[str, Any]:
    """Return the event of a function URL."""
    return {
        "version": "2.0",
        "headers": {"content-type": kind},
        "requestContext": {"apiId": "abc", "requestId": "r1", "timeEpoch": 1767323045000},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def text_of(answer: Answer) -> str:
    return "".join(data["text"] for name, data in answer.events if name == "message")


@pytest.mark.usefixtures("process")
def test_a_text_comes_in_parts_and_says_why_it_ends(lambda_: Lambda) -> None:
    answer = lambda_.invoke(request(b"0 3 9"))
    assert answer.headers["Content-Type"] == HTTP_RESPONSE
    assert answer.headers["Lambda-Runtime-Function-Response-Mode"] == "streaming"
    assert answer.prelude["statusCode"] == 200
    assert answer.prelude["headers"]["content-type"] == "text/event-stream"
    assert len(answer.chunks) == 1 + len(answer.events)  # each event goes when it is there
    *_, (name, end) = answer.events
    assert (name, end["model_version"]) == ("end", "m1")
    assert end["finish_reason"] in ("stop", "length")
    assert not answer.trailers
    shorter = lambda_.invoke(request(b"0 3 2"))
    assert shorter.events[-1][1] == {"finish_reason": "length", "tokens": 2, "model_version": "m1"}
    assert text_of(answer).startswith(text_of(shorter))


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "text/plain", 400, "must have a body"),
        (b"1 " * 30, "text/plain", 413, "at most 40 bytes, got 60"),
        (b"{", "application/json", 400, "must be JSON"),
        (b"say <end> and more", "text/plain", 422, "text contains '<end>'"),
        (b"break", "text/plain", 500, "Internal Server Error"),
    ],
)
def test_a_request_that_gets_no_text_gets_a_status_that_says_whose_fault_it_is(
    lambda_: Lambda, body: bytes, kind: str, status: int, message: str
) -> None:
    answer = lambda_.invoke(request(body, kind))
    assert (answer.prelude["statusCode"], answer.prelude["headers"]["content-type"]) == (status, "application/json")
    assert message in json.loads(answer.body)["message"]


@pytest.mark.usefixtures("process")
def test_a_request_without_time_is_told_so_before_any_text(lambda_: Lambda) -> None:
    answer = lambda_.invoke(request(b"wait"), seconds=1)
    assert answer.prelude["statusCode"] == 504
    assert lambda_.invoke(request(b"0 3 2")).prelude["statusCode"] == 200


@pytest.mark.usefixtures("process")
def test_a_caller_that_goes_away_costs_no_other_anything(lambda_: Lambda) -> None:
    lambda_.after_chunks["gone"] = lambda count: count == 2
    assert len(lambda_.invoke(request(b"0 3 9"), name="gone").chunks) == 2
    assert lambda_.invoke(request(b"0 3 2")).events[-1][1]["tokens"] == 2


@pytest.mark.usefixtures("process")
def test_an_event_that_keeps_it_warm_is_answered_and_any_other_fails(lambda_: Lambda) -> None:
    warm = lambda_.invoke({"cdk-inference": "warm"})
    assert (warm.path.rpartition("/")[2], json.loads(warm.chunks[0])) == ("response", {"warm": True})
    assert warm.headers["Content-Type"] == "application/json"
    for event in ({"Records": []}, {"requestContext": {}, "body": "a"}):
        other = lambda_.invoke(event)
        assert (other.path.rpartition("/")[2], json.loads(other.chunks[0])["errorType"]) == ("error", "KeyError")
    assert lambda_.invoke(request(b"0 3 2")).prelude["statusCode"] == 200


def test_a_snapshot_is_taken_after_the_model_is_open_and_before_any_request(tmp_path: Path) -> None:
    (tmp_path / "snapshot_restore_py.py").write_text(SNAPSHOTS)
    api = Lambda()
    process = start(api, tmp_path, {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})
    try:
        assert api.invoke(request(b"0 3 2")).prelude["statusCode"] == 200
        assert [path.rpartition("runtime/")[2] for path in api.asked[:2]] == ["restore/next", "invocation/next"]
    finally:
        stop(process)
        api.close()


def test_a_function_that_cannot_start_says_why(tmp_path: Path) -> None:
    api = Lambda()
    process = start(api, tmp_path, {"TOKENIZER_FILE": "none.json"})
    try:
        answer = api.answers.get(timeout=PATIENCE)
        assert answer.path.endswith("/runtime/init/error")
        assert json.loads(answer.chunks[0])["errorType"] == "FileNotFoundError"
        assert process.wait(timeout=PATIENCE) == 1
    finally:
        stop(process)
        api.close()


class Engine:
    """An engine that writes some tokens, and then ends in an error, or as it is told."""

    def __init__(self, tokens: list[int], end: Exception | str) -> None:
        self._tokens = tokens
        self._end = end
        self.seconds = 0.0

    def start_deadline(self, seconds: float) -> None:
        self.seconds = seconds

    def stream(self, inputs: dict[str, Tensor]) -> Iterator[Hypothesis]:
        assert {name: len(tensor) for name, tensor in inputs.items()} == {"asked": 1}
        said: tuple[int, ...] = ()
        for number, token in enumerate(self._tokens, 1):
            said = (*said, token)
            yield Hypothesis(0, said, 0.0, number, 0, ended=self._end == "length" and number == len(self._tokens))
        if isinstance(self._end, Exception):
            raise self._end
        if self._end == "stop":
            yield Hypothesis(0, said, 0.0, len(said) + 1, 0, ended=True)


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Answer, dict[str, Any]]]:
    """Return the streamed answer, and the whole one, of an engine of this kind."""
    monkeypatch.setenv("MAX_OBJECT_BYTES", "40")
    tokens = ByteTokens({"model": {"vocab": {t: n for n, t in enumerate(BYTES)}}, "decoder": {"type": "ByteLevel"}})

    def write(
        said: list[int], end: Exception | str, stop: tuple[str, ...] = (), own: tuple[str, ...] = ()
    ) -> tuple[Answer, dict[str, Any]]:
        writer = TextWriter(
            engine=Engine(said, end),  # type: ignore[arg-type]
            preprocess=lambda data, item: {"asked": np.array([len(data)], np.int64), "stop": list(own)},
            inputs=[InputSpec("asked", "int64", ("tokens",))],
            tokens=tokens,
            model_version="m1",
            stop=stop,
            keep=["stop"],
        )
        monkeypatch.setattr(write_text, "_opened", [writer])
        api = Lambda()
        client = RuntimeApi(api.address)
        api.waiting.put(("r1", request(b"a"), PATIENCE))
        write_text.answer(client, writer, client.next_invocation())
        whole = write_text.handler(request(b"a"), Context(PATIENCE))
        answer = api.answers.get(timeout=PATIENCE)
        api.close()
        return answer, whole

    return write


@pytest.mark.parametrize(
    ("said", "end", "texts", "reason"),
    [
        ([0, 4, 5, 1], "stop", ["a", "\xe9", "b"], "stop"),
        ([0, 4], "length", ["a", "\ufffd"], "length"),  # half a character is told as such, and only at the end
        ([0, 1], LittleTimeError("late"), ["a", "b"], "time"),
        ([4], LittleTimeError("late"), ["\ufffd"], "time"),
    ],
)
def test_no_part_has_half_a_character_and_the_end_says_why_it_came(
    write: Callable[..., Any], said: list[int], end: Exception | str, texts: list[str], reason: str
) -> None:
    answer, whole = write(said, end)
    assert answer.events == [
        *(("message", {"text": text}) for text in texts),
        ("end", {"finish_reason": reason, "tokens": len(said), "model_version": "m1"}),
    ]
    assert not answer.trailers
    assert (whole["statusCode"], whole["body"].encode()) == (200, answer.body)


def test_a_text_ends_before_a_string_and_nothing_is_written_after_it(write: Callable[..., Any]) -> None:
    never = ValueError("the model was asked for more")
    answer, whole = write([0, 1, 2, 0, 4, 5, 1], never, ("zz", "a\xe9b"))  # its characters are in four tokens
    assert answer.events == [
        *(("message", {"text": text}) for text in ("ab", "c")),
        ("end", {"finish_reason": "stop", "tokens": 7, "model_version": "m1"}),
    ]
    assert whole["body"].encode() == answer.body
    asked_for, _ = write([0, 1, 2, 0, 4, 5, 1], never, ("zz",), ("a\xe9b", "y"))
    assert asked_for.events == answer.events
    held, _ = write([1, 0, 4, 5], LittleTimeError("late"), ("a\xe9b",))
    assert [data.get("text") for _, data in held.events] == ["b", "a\xe9", None]


def test_a_model_that_fails_after_some_text_is_told_to_the_caller_and_to_lambda(write: Callable[..., Any]) -> None:
    answer, whole = write([0, 1], ValueError("a bug"))
    assert answer.events[-1] == ("error", {"message": "Internal Server Error"})
    assert answer.trailers["Lambda-Runtime-Function-Error-Type"] == "ValueError"
    described = json.loads(base64.b64decode(answer.trailers["Lambda-Runtime-Function-Error-Body"]))
    assert described["errorMessage"] == "a bug"
    assert whole["body"].encode() == answer.body


@pytest.mark.parametrize(("error", "status"), [(LittleTimeError("late"), 504), (ValueError("a bug"), 500)])
def test_a_model_that_fails_before_any_text_gives_a_status(
    write: Callable[..., Any], error: Exception, status: int
) -> None:
    answer, whole = write([], error)
    assert answer.prelude["statusCode"] == whole["statusCode"] == status
    assert whole["body"].encode() == answer.body
