"""A device: a package around a small model, the agent as a process, and a network that can be cut."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from tests.waiting import PATIENCE, wait_until

SOURCES = Path(__file__).parents[3] / "lambda_src"

USER_CODE = """
import ctypes, json, os, time
import numpy as np
from inference_runtime import RejectItem

def preprocess(data, item):
    order = data.decode(errors="replace").split(" ")[0]
    if order == "refuse":
        raise RejectItem("as it was told")
    if order == "raise":
        raise RuntimeError("as it was told")
    if order == "crash":
        os.kill(os.getpid(), 9)
    if order == "hang":
        while True:
            pass
    if order == "stuck":
        c, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        c.pthread_mutex_lock(mutex)
        c.pthread_mutex_lock(mutex)  # never returns, and keeps Python's lock
    return np.array(json.loads(data), np.float32)

def postprocess(outputs, item):
    return {"label": str(int(outputs["scores"].argmax()))}
"""
"""Items are the two scores of the model, or an order."""

SURE, UNSURE = b"[0, 9]", b"[0.1, 0]"


def write_package(folder: Path, *, version: str = "1.0.0", code: str = USER_CODE, **changes: Any) -> Path:
    """Write the package of a version, but the runtime, and return its folder."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["scores"])],
        "scores",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model" / "model.onnx")
    (folder / "edge_user_code.py").write_text(code)
    described = {
        "format": 1,
        "name": "digits",
        "version": version,
        "variables": {
            "PREPROCESS_FUNCTION": "edge_user_code:preprocess",
            "POSTPROCESS_FUNCTION": "edge_user_code:postprocess",
            "MODEL_INPUTS": json.dumps([{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]),
            "MODEL_VERSION": "m1",
            "CONFIDENCE": "1",
            "PIPELINE": "photos",
        },
        "threshold": 0.9,
        "row_version": "r1",
        "check": {"item": {"key": "example", "data": "WzAsIDld", "prediction": {"label": "1"}}},
        **changes,
    }
    (folder / "edge.json").write_text(json.dumps(described))
    return folder


NAMES = """
import os, socket, sys, time
_found = socket.getaddrinfo

def getaddrinfo(host, *others, **more):
    return _found("127.0.0.2" if host == "localhost" else host, *others, **more)

socket.getaddrinfo = getaddrinfo
sys.modules["botocore"] = None
if "CLOCK" in os.environ:
    began, shown = time.monotonic_ns(), int(os.environ["CLOCK"]) * 10**9
    time.time_ns = lambda: shown + time.monotonic_ns() - began
    time.time = lambda: time.time_ns() / 10**9
"""
"""Has a process find `localhost` behind the proxy, read another clock, and do without botocore, as on a device.

The server's port and name stay the same: requests are signed.
"""


class Proxy:
    """A network that can be cut, on the way to a server on this machine.

    Parameters
    ----------
    port
        The port of the server, and of the proxy at another address.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.connections = 0
        self.restore()

    def cut(self) -> None:
        """End all connections, in the middle of whatever they bring, and refuse others."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def restore(self) -> None:
        """Let connections through again."""
        self._listener = socket.create_server(("127.0.0.2", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                self.connections += 1
                far = socket.create_connection(("127.0.0.1", self.port))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


class Device:
    """A machine with an agent.

    Parameters
    ----------
    root
        Its disk.
    variables
        The settings of the agent.
    """

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.package = write_package(root / "package")
        self.watched, self.state = root / "watched", root / "state"
        self.watched.mkdir()
        (root / "names").mkdir()
        (root / "names" / "sitecustomize.py").write_text(NAMES)
        self.variables = {
            "DEVICE": "cam-1",
            "STATE_FOLDER": str(self.state),
            "WATCH_FOLDER": str(self.watched),
            "SETTLE_MS": "50",
            "POLL_MS": "10",
            "RETRY_MS": "20",
            "MAX_RETRY_MS": "200",
            "STATUS_MS": "100",
            "PACKAGE_ROOT": str(self.package),
            "PYTHONPATH": f"{SOURCES}:{self.package}:{root / 'names'}",
            "AWS_REGION": "eu-central-1",
            **variables,
        }
        self._log = root / "agent.log"
        self.process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> str:
        """Everything that the agent logged."""
        return self._log.read_text() if self._log.exists() else ""

    def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent to its end."""
        environment = {**os.environ, **self.variables, **variables}
        command = [sys.executable, "-m", "inference_runtime.edge", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def start(self, *, ready: bool = True) -> None:
        """Start the agent, and wait until it is ready."""
        before = self.log.count(" ready\n")
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "inference_runtime.edge", "run"],
                env={**os.environ, **self.variables},
                stdout=log,
                stderr=log,
                text=True,
            )
        if ready:
            self.wait(lambda: self.log.count(" ready\n") > before)

    def wait(self, condition: Any) -> None:
        """Wait for a state, as long as the agent runs."""

        def reached() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return bool(condition())

        wait_until(reached, lambda: self.log[-5_000:], every=0.02)

    def kill(self) -> None:
        """Cut the power of the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def put(self, name: str, data: bytes) -> None:
        """Have a file in the folder, as a program writes one that renames it."""
        partial = self.watched / f".{Path(name).name}.tmp"
        partial.write_bytes(data)
        target = self.watched / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)

    def status(self) -> dict[str, Any]:
        """Read the status that the agent writes."""
        path = self.state / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def settled(self) -> bool:
        """Whether nothing is left to do."""
        status = self.status()
        return bool(status) and not any(status["waiting"].values()) and not self.files()

    def files(self) -> list[str]:
        """Return the files in the folder."""
        found = (path for path in self.watched.rglob("*") if path.is_file() and not path.is_symlink())
        return sorted(str(path.relative_to(self.watched)) for path in found)
