"""One process has the model for several: real processes and sockets, killed in the middle of what they do.

Only a GPU is missing. A session that raises ONNX Runtime's messages, or dies, on some values plays its part.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.arrays import infer
from tests.waiting import PATIENCE, wait_until

from inference_runtime.engine.engine import LocalEngine
from inference_runtime.errors import KernelFaultError, OutOfMemoryError, RetryableError, StageError
from inference_runtime.gpu import model_client
from inference_runtime.gpu.model_client import ModelClient, ModelServerDiedError
from inference_runtime.gpu.model_server import ModelServer
from inference_runtime.tensors import protocol
from inference_runtime.tensors.tensor import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCES = Path(__file__).parents[3] / "lambda_src"
FAKE_GPU = """
import os
import onnxruntime as ort

run = ort.InferenceSession.run

def on_a_gpu(self, names, inputs, options=None):
    x = inputs["x"]
    if (x == 9).any():
        os.kill(os.getpid(), 9)
    if (x == 700).any():
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")
    if (x == 214).any():
        raise RuntimeError("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0")
    if len(x) > 8:
        raise RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 939524096")
    return run(self, names, inputs, options)

ort.InferenceSession.run = on_a_gpu
"""


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environment of a function whose model doubles `x`, counts the batch, and takes as many rounds as `rounds`."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "zero"], ["next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["rounds"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "", "none"], ["still_none"], body=body),
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Add", ["double", "still_none"], ["y"]),
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Expand", ["size", "size"], ["count"]),
    ]
    graph = helper.make_graph(
        nodes,
        "double",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("rounds", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length"]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor("none", TensorProto.FLOAT, [], [0.0])],
    )
    (tmp_path / "model").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model" / "model.onnx")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    monkeypatch.setenv("MODEL_VERSION", "m1")
    monkeypatch.setenv("MAX_BATCH", "1000")
    monkeypatch.syspath_prepend(str(SOURCES))
    return tmp_path


@pytest.fixture
def gpu(function: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE", "python")
    (function / "sitecustomize.py").write_text(FAKE_GPU)
    monkeypatch.syspath_prepend(str(function))


@pytest.fixture
def engines(function: Path) -> Iterator[Callable[[], ModelClient]]:
    opened: list[ModelClient] = []

    def open_one() -> ModelClient:
        opened.append(ModelClient())
        return opened[-1]

    yield open_one
    for engine in opened:
        with contextlib.suppress(OSError, RetryableError):
            model_client._kill(engine._local.socket)


class Clock:
    """The engine's clock. It goes on only with the engine's own waiting, so that a busy machine does not matter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        receive, sleep = protocol.receive, time.sleep

        def received(connection: socket.socket) -> Any:
            try:
                return receive(connection)
            except TimeoutError:
                self.now += connection.gettimeout() or 0
                raise

        def slept(seconds: float) -> None:
            sleep(seconds)
            self.now += seconds

        monkeypatch.setattr(protocol, "receive", received)
        monkeypatch.setattr(model_client, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=slept))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def inputs(*values: float, rounds: int = 0, length: int = 2) -> dict[str, np.ndarray]:
    x = np.repeat(np.array(values, np.float32)[:, None], length, axis=1)
    return {"x": x, "rounds": np.full(len(values), rounds, np.int64)}


def server_of(engine: ModelClient) -> int:
    credentials = engine._connection(time.monotonic() + 60).getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", credentials)[0])


def ticks(process: int) -> int:
    """Return the CPU time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def doubles(engine: ModelClient, *values: float, **options: Any) -> bool:
    outputs = infer(engine, inputs(*values, **options))
    return outputs["y"][:, 0].tolist() == [2 * value for value in values]


def later(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_it_is_the_engine_of_another_process(engines: Any) -> None:
    engine, local = engines(), LocalEngine()
    assert (engine.inference, engine.output_names) == (local.inference, local.output_names) == ("cpu", ["y", "count"])
    assert server_of(engine) != os.getpid()
    given = inputs(1, 2.5, -3, length=5)
    for name, expected in infer(local, given).items():
        np.testing.assert_array_equal(infer(engine, given)[name], expected)
    for broken in (
        {"x": given["x"]},
        {**given, "rounds": given["rounds"][:2]},
        {**given, "x": given["x"].astype("f8")},
    ):
        with pytest.raises(StageError, match=r"^inputs "):
            infer(engine, broken)
    with pytest.raises(RuntimeError, match=r"^InvalidArgument: "):
        infer(engine, {**given, "x": given["x"][..., None]})
    assert doubles(engine, 4)


def test_a_model_that_does_not_load_says_why(function: Path) -> None:
    (function / "model" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"^InvalidProtobuf: .*model\.onnx"):
        ModelClient()


WORKER = """
import os, sys, time
import numpy as np
from inference_runtime.gpu.model_client import ModelClient
from inference_runtime.tensors.tensor import arrays_of, tensors_of

engine, joined, servers = ModelClient(), 0, set()
print("connected", flush=True)
sys.stdin.read()  # until all are
rng = np.random.default_rng(int(sys.argv[1]))
for _ in range(30):
    count, length = rng.integers(1, 20), rng.integers(1, 3)
    x = rng.random((count, length), np.float32)
    outputs = arrays_of(engine.infer(tensors_of({"x": x, "rounds": np.full(count, 1500)})))
    assert (outputs["y"] == x + x).all()
    joined += (outputs["count"] > count).any()
credentials = engine._connection(time.monotonic() + 60).getsockopt(1, 17, 12)
assert "onnxruntime" not in sys.modules
print(int.from_bytes(credentials[:4], sys.byteorder), joined)
"""


def test_several_processes_have_one_model_and_run_together(function: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    waits, go = os.pipe()
    options: dict[str, Any] = {"env": environment, "stdin": waits, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(n)], **options) for n in range(5)]
    assert [worker.stdout.readline() for worker in workers] == ["connected\n"] * 5
    os.close(go)
    os.close(waits)
    told = [worker.stdout.readline().split() for worker in workers]  # the server, which goes on, has the pipe, too
    assert [worker.wait(PATIENCE) for worker in workers] == [0] * 5
    assert len({server for server, _ in told}) == 1
    assert sum(int(joined) for _, joined in told) > 15


def test_a_process_that_died_is_followed_by_another(engines: Any) -> None:
    engine, other = engines(), engines()
    first = server_of(engine)
    assert server_of(other) == first
    os.kill(first, signal.SIGKILL)
    assert doubles(engine, 1, 2)
    assert doubles(other, 3)
    assert server_of(other) == server_of(engine) != first


def test_killed_in_the_middle_of_a_batch_nothing_is_lost(engines: Any) -> None:
    count = 3
    members = [engines() for _ in range(count)]
    first = server_of(members[0])
    before = ticks(first)  # it computes when this has grown, however busy the machine is

    def kill() -> None:
        wait_until(lambda: ticks(first) >= before + 10, every=0.01)
        os.kill(first, signal.SIGKILL)

    killer = later(kill)

    def work(n: int) -> tuple[bool, int]:
        return doubles(members[n], *range(n + 1), rounds=1_000_000), server_of(members[n])

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(work, range(count)))
    killer.join()
    assert [right for right, _ in done] == [True] * count
    assert {server for _, server in done}.isdisjoint({first})


def test_one_engine_serves_threads_and_forks(function: Path) -> None:
    script = """
import os
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from inference_runtime.gpu.model_client import ModelClient
from inference_runtime.tensors.tensor import arrays_of, tensors_of

def doubles(n):
    x = np.full((n + 1, 2), n, np.float32)
    outputs = arrays_of(engine.infer(tensors_of({"x": x, "rounds": np.zeros(n + 1, np.int64)})))
    return (outputs["y"] == 2 * n).all()

engine = ModelClient()
for child in range(3):
    if os.fork() == 0:
        os._exit(0 if all(doubles(n) for n in range(50)) else 1)
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(doubles, range(200)))
for child in range(3):
    assert os.wait()[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=environment, check=True, timeout=PATIENCE)


def test_leftovers_of_dead_processes_are_in_nobodys_way(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[bool] = []
    start = ModelClient._start
    with monkeypatch.context() as patch:
        patch.setattr(ModelClient, "_connection", lambda self, deadline: None)
        paths = ModelClient()
    paths._lock.write_text("")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(paths._path))
    monkeypatch.setattr(ModelClient, "_start", lambda self: starts.append(start(self)) or starts[-1])
    assert doubles(engines(), 1)
    assert starts.count(True) == 1


def test_one_that_starts_is_waited_for(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = ModelClient._start, threading.Event()

    def start_or_tell(self: ModelClient) -> bool:
        if not (started := start(self)):
            refused.set()
        return started

    with monkeypatch.context() as patch:
        patch.setattr(ModelClient, "_connection", lambda self, deadline: None)
        lock = ModelClient()._lock
    with lock.open("w") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        with monkeypatch.context() as patch:
            patch.setattr(model_client, "START_TIMEOUT", 0.5)
            with pytest.raises(RetryableError, match="does not start in time, in 0 attempts"):
                engines()
        monkeypatch.setattr(ModelClient, "_start", start_or_tell)
        releasing = later(lambda: (refused.wait(), fcntl.flock(elsewhere, fcntl.LOCK_UN)))
        assert doubles(engines(), 1)
        releasing.join()


def test_one_that_does_not_start_is_given_up(function: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RetryableError, match="does not start in time, in 3 attempts"):
        ModelClient()


def test_clients_that_die_or_talk_nonsense_disturb_nobody(engines: Any) -> None:
    engine = engines()

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(engine._path))
        protocol.receive(connection)
        return connection

    whole = bytearray()
    left, right = socket.socketpair()
    with left, right:
        protocol.send(left, {"alone": False}, tensors_of(inputs(*range(9))))
        whole += right.recv(100_000)
    for end in (0, 1, 7, 8, 20, len(whole) - 72, len(whole) - 1):
        with connect() as connection:
            connection.sendall(whole[:end])
    nonsense = [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<4sI", b"tns2", 2**32 - 1),
        *(
            struct.pack("<4sI", b"tns2", len(header)) + header
            for header in (
                b"{",
                b"[]",
                b"{}",
                b'{"tensors": 1}',
                b'{"tensors": [["x", "object", [1], 4]]}',
                b'{"tensors": [["x", "float32", [-1], 4]]}',
                b'{"tensors": [["x", "float32", [4000000000, 4000000000], 64000000000000000000]]}',
                b'{"tensors": [["x", "float32", ["a"], 4]]}',
                b'{"tensors": [["x"]]}',
                b'{"tensors": [["x", "float32", [1], 5]]}',
                b'{"tensors": [["x", "string", [1], 2]]}{}',
            )
        ),
    ]
    for data in nonsense:
        with connect() as connection:
            connection.sendall(data)
            with pytest.raises((protocol.BrokenConnectionError, ConnectionResetError)):
                protocol.receive(connection)
    impatient = connect()
    protocol.send(impatient, {}, tensors_of(inputs(1, rounds=50_000)))
    impatient.close()  # does not wait for its answer
    first = server_of(engine)
    assert doubles(engine, 5)
    assert server_of(engine) == first


def test_a_card_that_hangs_does_not_keep_the_function(
    engines: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWER_SECONDS", "3")
    engine = engines()
    first = server_of(engine)
    began = clock.now
    engine.start_deadline()
    clock.now += 1  # reading the tensors counts: Lambda does not wait either
    with pytest.raises(RetryableError, match="did not answer for 2 seconds"):
        infer(engine, inputs(1, rounds=10**9))
    assert clock.now == pytest.approx(began + 3)
    engine._answer = 600.0
    engine.start_deadline()
    assert doubles(engine, 2)
    assert server_of(engine) != first


def test_who_had_little_time_left_kills_nobody(engines: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSWER_SECONDS", "2")
    engine = engines()
    monkeypatch.setenv("ANSWER_SECONDS", "600")  # what the first one asked for is still being done
    other = engines()
    first = server_of(engine)
    engine.start_deadline()
    clock.now += 1.95
    with pytest.raises(RetryableError, match="did not answer for 0 seconds"):
        infer(engine, inputs(1, rounds=2_000_000))
    assert doubles(other, 3)
    assert server_of(other) == first


def test_one_that_takes_long_to_start_is_waited_for_only_within_the_invocation(
    engines: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWER_SECONDS", "1")
    engine = engines()
    os.kill(server_of(engine), signal.SIGKILL)
    monkeypatch.setattr(ModelClient, "_start", lambda self: False)
    began = clock.now
    engine.start_deadline()
    with pytest.raises(RetryableError, match="does not start in time"):
        infer(engine, inputs(1))
    assert clock.now - began == pytest.approx(1, abs=0.05)


def test_it_ends_when_all_have_left(function: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("inference_runtime.gpu.model_server.IDLE_TIMEOUT", 1.0)
    monkeypatch.setattr("inference_runtime.gpu.model_server.time", SimpleNamespace(monotonic=lambda: now))
    path = function / "s"
    server = ModelServer(path)
    status: list[int] = []
    running = later(lambda: status.append(server.run()))
    for _ in range(3):  # each comes before the time is over
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert protocol.receive(connection)[0]["inference"] == "cpu"
            now += 1.2
        wait_until(lambda: server._connections == 0)
        now += 0.9
    now += 0.2
    running.join()
    assert status == [0]
    assert not path.exists()


@pytest.mark.usefixtures("gpu")
class TestOnAGpuThatFails:
    def test_memory(self, engines: Any) -> None:
        engine = engines()
        outputs = infer(engine, inputs(*range(20, 50)))
        assert outputs["y"][:, 0].tolist() == [2 * n for n in range(20, 50)]
        assert set(outputs["count"].tolist()) == {7, 2}

    def test_an_item_that_kills_is_found_and_takes_nobody_along(self, engines: Any) -> None:
        """Others in its batch come through; it fails with an error on which the workflow halves the batch."""
        poison, others = engines(), [engines() for _ in range(3)]
        servers = {server_of(poison)}
        with ThreadPoolExecutor(4) as pool:
            failing = pool.submit(infer, poison, inputs(1, 9, 2))
            assert list(pool.map(lambda engine: doubles(engine, 3, 4, rounds=1000), others)) == [True] * 3
            with pytest.raises(ModelServerDiedError, match="died on this batch, twice"):
                failing.result()
        assert doubles(poison, 5)
        assert servers.isdisjoint({server_of(poison)})

    def test_a_kernel_that_fails_is_the_items_fault_only_alone(self, engines: Any) -> None:
        poison, other = engines(), engines()
        with ThreadPoolExecutor(2) as pool:
            failing = pool.submit(infer, poison, inputs(700))
            assert doubles(other, 1)
            with pytest.raises(KernelFaultError, match="CUDA failure 700: an illegal memory access"):
                failing.result()
        assert doubles(poison, 2)
        assert doubles(other, 3)

    def test_a_card_that_fails_is_nobodys_fault(self, engines: Any) -> None:
        engine = engines()
        first = server_of(engine)
        with pytest.raises(RetryableError, match="CUDA failure 214") as raised:
            infer(engine, inputs(214))
        assert str(raised.value).count("RetryableError") == 1
        assert doubles(engine, 2)
        assert server_of(engine) != first


def test_an_item_too_large_fails_by_its_own_name(engines: Any, function: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE", "python")
    (function / "sitecustomize.py").write_text(FAKE_GPU.replace("len(x) > 8", "x.shape[1] > 8"))
    monkeypatch.syspath_prepend(str(function))
    engine = engines()
    with pytest.raises(OutOfMemoryError, match=r"1 items of x float32 \[9\].* do not fit the memory"):
        infer(engine, inputs(1, 2, length=9))
    assert doubles(engine, 1, 2, length=8)
