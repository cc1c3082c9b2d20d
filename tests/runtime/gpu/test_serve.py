"""The container for SageMaker, over HTTP: a real server around a real model, and everything a client can do wrong."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.arrays import ArrayStore
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

SOURCES = Path(__file__).parents[3] / "lambda_src"


class Container:
    """The server in a separate process."""

    def __init__(self, code: str | None = None) -> None:
        run = ["-m", "inference_runtime.handlers.serve", "serve"] if code is None else ["-c", code]
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "SAGEMAKER_BIND_TO_PORT": "0"}
        self.process = subprocess.Popen([sys.executable, *run], env=environment, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"ready on port (\d+), the model runs on the (\w+)", line):
                self.port, self.inference = int(found[1]), found[2]
                break
        else:
            raise AssertionError(f"it does not start: {self.lines}")
        threading.Thread(target=lambda: self.lines.extend(self.process.stdout or ()), daemon=True).start()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def say(self, data: bytes) -> bytes:
        """Send bytes, and return everything until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def function(environment: pytest.MonkeyPatch, bucket: str, tmp_path: Path) -> None:
    """Environment of a container whose model doubles `x`, and counts its batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
            helper.make_node("Expand", ["size", "size"], ["count"]),
        ],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch"]),
        ],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    environment.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    environment.setenv("ACCELERATOR", "cuda")


@pytest.fixture
def start(function: None) -> Iterator[Callable[..., Container]]:
    started: list[Container] = []

    def start(code: str | None = None) -> Container:
        started.append(Container(code))
        return started[-1]

    yield start
    for container in started:
        container.process.kill()
        container.process.wait()


@pytest.fixture
def container(start: Callable[..., Container]) -> Container:
    return start()


def event(*rows: float, indices: list[int] | None = None) -> dict[str, Any]:
    data = base64.b64encode(np.repeat(np.array(rows, "<f4")[:, None], 2, axis=1).tobytes()).decode()
    tensor = {"dtype": "float32", "shape": [len(rows), 2], "data": data}
    return {"groups": [{"indices": indices or list(range(len(rows))), "inputs": {"x": tensor}}]}


def test_it_answers_as_the_function_does(container: Container, s3: S3Client, bucket: str) -> None:
    store = ArrayStore(s3, bucket)
    assert container.inference == "cpu"
    assert container.ask("GET", "/ping") == (200, {})
    status, answer = container.ask("POST", "/invocations", event(1, 2))
    assert status == 200
    assert (answer["model_version"], answer["inference"]) == ("m1", "cpu")
    [group] = answer["groups"]
    assert group["indices"] == [0, 1]
    assert store.load(group["outputs"]["y"]).tolist() == [[2, 2], [4, 4]]
    x = np.random.default_rng(0).random((50_000, 2), np.float32)
    large = store.dump_groups({}, [(list(range(50_000)), {"x": x})], "inputs", 600_000)
    assert "key" in large["groups"][0]["inputs"]["x"]
    status, answer = container.ask("POST", "/invocations", {**large, "only": [7, 49_999]})
    assert status == 200
    assert store.load(answer["groups"][0]["outputs"]["y"]).tolist() == (x[[7, 49_999]] * 2).tolist()


@pytest.mark.parametrize(
    ("body", "status", "kind", "says"),
    [
        (b"", 400, "BadRequestError", "the body is not JSON"),
        (b"{", 400, "BadRequestError", "the body is not JSON"),
        (b"[" * 100_000, 400, "BadRequestError", "the body is not JSON"),
        (b"\xff", 400, "BadRequestError", "the body is not JSON"),
        ([], 400, "BadRequestError", 'expected {"groups": [...]}'),
        ({}, 400, "BadRequestError", 'expected {"groups": [...]}'),
        ({"groups": 1}, 400, "BadRequestError", 'expected {"groups": [...]}'),
        ({"groups": [{}]}, 500, "KeyError", "indices"),
        (
            {"groups": [{"indices": [0], "inputs": {"x": {"dtype": "int8", "shape": [1], "data": "AA=="}}}]},
            500,
            "StageError",
            "the model expects {'x': 'float32'}",
        ),
        (
            {
                "groups": [
                    {"indices": [0], "inputs": {"x": {"dtype": "int8", "shape": [1], "bucket": "no", "key": "k"}}}
                ]
            },
            503,
            "RetryableError",
            "cannot read s3://no/k",
        ),
    ],
)
def test_errors_are_json_with_their_names(container: Container, body: Any, status: int, kind: str, says: str) -> None:
    found, answer = container.ask("POST", "/invocations", body)
    assert (found, answer["errorType"]) == (status, kind)
    assert says in answer["errorMessage"]


def test_paths_and_methods(container: Container) -> None:
    assert container.ask("GET", "/")[0] == 404
    assert container.ask("GET", "/invocations")[0] == 404
    assert container.ask("POST", "/ping", b"{}")[0] == 404
    assert container.say(b"PUT /invocations HTTP/1.1\r\nContent-Length: 0\r\n\r\n").split()[1] == b"501"


def test_a_connection_stays_open(container: Container) -> None:
    connection = container.connect()
    for n in range(3):
        connection.request("POST", "/invocations", json.dumps(event(n)))
        assert connection.getresponse().read()
        connection.request("GET", "/ping")
        assert connection.getresponse().read() == b"{}"
    assert container.ask("POST", "/invocations", event(1))[0] == 200  # next to it
    connection.close()


def test_bodies_in_chunks(container: Container) -> None:
    body = json.dumps(event(1, 2, 3)).encode()
    connection = container.connect()
    pieces = [body[n : n + 7] for n in range(0, len(body), 7)]
    for _ in range(2):
        connection.request("POST", "/invocations", iter(pieces), encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["groups"][0]["indices"] == [0, 1, 2]
    connection.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /invocations HTTP/1.1\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_half_a_request_is_refused(container: Container, request_: bytes) -> None:
    answer = container.say(request_)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["errorType"] == "BadRequestError"
    assert container.ask("GET", "/ping")[0] == 200


def test_concurrent_requests_run_together(container: Container, s3: S3Client, bucket: str) -> None:
    store = ArrayStore(s3, bucket)

    def ask(n: int) -> int:
        _, answer = container.ask("POST", "/invocations", event(n, n + 0.5))
        outputs = answer["groups"][0]["outputs"]
        assert store.load(outputs["y"]).tolist() == [[2 * n] * 2, [2 * n + 1] * 2]
        return int(store.load(outputs["count"])[0])

    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(ask, range(120)))
    assert max(sizes) > 2


SLOW = """
import threading
from inference_runtime.handlers import serve
from inference_runtime.engine.engine import LocalEngine

infer, close, closed = LocalEngine.infer, serve.Server.server_close, threading.Event()
def slow(self, inputs):
    print("asked", flush=True)
    closed.wait()
    return infer(self, inputs)
def closing(self):
    close(self)
    closed.set()
LocalEngine.infer = slow
serve.Server.server_close = closing
serve.main()
"""


def test_what_is_being_answered_is_finished_when_the_container_stops(start: Any) -> None:
    container = start(SLOW)
    idle = container.connect()
    idle.request("GET", "/ping")
    idle.getresponse().read()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(container.ask, "POST", "/invocations", event(1))
        wait_until(lambda: "asked\n" in container.lines)
        container.process.send_signal(signal.SIGTERM)
        assert asked.result()[0] == 200
    assert container.process.wait(PATIENCE) == 0
    idle.close()


EXPLAINING = """
import time
from types import SimpleNamespace

from inference_runtime.gpu.dynamic_batcher import DynamicBatcher
from inference_runtime.handlers import serve

infer, handle, skipped = DynamicBatcher.infer, serve.Server.handle_event, 0.0
def told(self, inputs):
    print("asked for", len(inputs["x"]), flush=True)
    return infer(self, inputs)
def late(self, event, came):
    global skipped
    skipped += event.get("skip", 0)
    return handle(self, event, came)
DynamicBatcher.infer = told
serve.Server.handle_event = late
serve.time = SimpleNamespace(sleep=time.sleep, monotonic=lambda: skipped + time.monotonic())
serve.main()
"""


def test_answers_are_explained_by_the_shared_engine_while_the_request_has_time(
    start: Any, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"when": "always", "seconds": 10, "output": "y", "target": "similarity", "method": "shapley"}
    settings |= {"parts": "features", "baseline": "zero"}
    settings["options"] = {"places": [["x", 0], ["x", 1]], "fill": [0, 0], "names": ["a", "b"]}
    (tmp_path / "explanation.json").write_text(json.dumps(settings))
    environment.setenv("EXPLANATION_SETTINGS", "explanation.json")
    environment.setenv("ANSWER_SECONDS", "3000")
    container = start(EXPLAINING)
    status, answer = container.ask("POST", "/invocations", event(3))
    [said] = answer["explanations"]
    assert (status, said["indices"]) == (200, [0])
    assert said["explanation"]["values"] == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-3)  # as each adds to (3, 3)
    runs = said["explanation"]["runs"]
    wait_until(lambda: sum(int(line[10:]) for line in container.lines if line.startswith("asked for ")) == 1 + runs)
    status, answer = container.ask("POST", "/invocations", {**event(3), "skip": 3000})
    [said] = answer["explanations"]
    assert (status, list(said["explanation"])) == (200, ["method", "reason"])
    assert "do not fit into the time" in said["explanation"]["reason"]
    status, answer = container.ask("POST", "/invocations", event(3))  # whose time is its own
    assert "values" in answer["explanations"][0]["explanation"]


FAILING = """
from inference_runtime.handlers import serve
from inference_runtime.engine.engine import LocalEngine

init = LocalEngine.__init__
def failing(self):
    init(self)
    run = self.session.run
    def on_a_gpu(inputs):
        if 700 in inputs["x"].values():
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")
        return run(inputs)
    self.session.run = on_a_gpu
LocalEngine.__init__ = failing
serve.main()
"""


def test_a_container_whose_gpu_failed_answers_and_ends(start: Any) -> None:
    container = start(FAILING)
    assert container.ask("POST", "/invocations", event(1))[0] == 200
    status, answer = container.ask("POST", "/invocations", event(700))
    assert (status, answer["errorType"]) == (500, "KernelFaultError")
    assert container.ask("GET", "/ping")[0] == 503
    assert container.process.wait(PATIENCE) == 1


HANGING = """
import signal
import threading
import time
from types import SimpleNamespace

from inference_runtime.gpu import dynamic_batcher
from inference_runtime.handlers import serve

skipped, told = 0, threading.Event()

def skip(*_):  # an hour of the model's clock
    global skipped
    skipped += 3600
    print("later", flush=True)

def sleep(seconds):
    time.sleep(seconds) if seconds == serve._WATCH else told.wait()

signal.signal(signal.SIGUSR1, skip)
signal.signal(signal.SIGUSR2, lambda *_: told.set())
dynamic_batcher.time = SimpleNamespace(monotonic=lambda: skipped + time.monotonic())
serve.time = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
""" + FAILING.replace("raise RuntimeError", "print('hangs', flush=True); time.sleep(3600); raise RuntimeError")


def test_a_container_whose_gpu_hangs_says_so_and_ends(start: Any, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ANSWER_SECONDS", f"{PATIENCE:.0f}")
    container = start(HANGING)
    assert container.ask("POST", "/invocations", event(1))[0] == 200
    container.process.send_signal(signal.SIGUSR1)  # idle is not hanging
    wait_until(lambda: "later\n" in container.lines)
    assert container.ask("GET", "/ping")[0] == 200

    def ask() -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            container.ask("POST", "/invocations", event(700))

    stuck = threading.Thread(target=ask)
    stuck.start()
    wait_until(lambda: "hangs\n" in container.lines)
    assert container.ask("GET", "/ping")[0] == 200
    container.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: container.lines.count("later\n") == 2)
    assert container.ask("GET", "/ping")[0] == 503
    container.process.send_signal(signal.SIGUSR2)  # it waits for a health check
    assert container.process.wait(PATIENCE) == 1
    stuck.join()


def test_a_model_that_does_not_load_ends_the_container(function: None) -> None:
    Path(os.environ["LAMBDA_TASK_ROOT"], "model", "model.onnx").write_bytes(b"no model")
    with pytest.raises(AssertionError, match="does not start"):
        Container()
