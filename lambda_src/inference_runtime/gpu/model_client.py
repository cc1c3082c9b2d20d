"""Runs the model in another process: one model server has it on the GPU for all processes of the environment.

The first process that needs the model starts the server (`model_server`), as the owner of a file lock; the others find
its socket. If the server dies, the next request starts another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from inference_runtime import errors
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError
from inference_runtime.model.private_folder import private_folder
from inference_runtime.tensors import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.tensors.tensor import Tensor

START_TIMEOUT = 300.0
"""Seconds in which the model must be loaded."""

REQUEST_TIMEOUT = 600.0
"""Seconds that an invocation may take, if `ANSWER_SECONDS` does not say so.

The construct sets it below the function's timeout. A card that hangs would outlast every invocation otherwise, and the
workflow, whose invocations die, would blame some item.
"""

_MAX_STARTS = 3
_MAX_ATTEMPTS = 20  # those of others may kill it each time before it comes to ours
_RETRY_DELAY = 0.02

_log = logging.getLogger(__name__)


class ModelServerDiedError(Exception):
    """The process with the model died twice on the same batch: the workflow looks for the item that kills it."""


class ModelClient:
    """Runs the model in the model server; an engine for any number of threads.

    A request during which that process dies is tried again, by itself. If the process dies on it then, too, the request
    fails: it was its fault, and it took nobody along.
    """

    def __init__(self) -> None:
        folder = private_folder(Path(tempfile.gettempdir()))
        # On a developer's machine, functions of several pipelines share the folder for temporary files.
        function = "\0".join((required("LAMBDA_TASK_ROOT"), required("MODEL_VERSION"), sys.executable))
        name = hashlib.sha256(function.encode()).hexdigest()[:16]
        self._path, self._lock = folder / f"{name}.socket", folder / f"{name}.lock"
        self._local = threading.local()
        self._server: subprocess.Popen[bytes] | None = None
        self._request_timeout = float(os.environ.get("ANSWER_SECONDS") or REQUEST_TIMEOUT)
        self.inference, self.output_names = "", list[str]()
        self._connection(time.monotonic() + START_TIMEOUT)

    def start_deadline(self, seconds: float = inf) -> None:
        """Let the time of an invocation count from here."""
        self._local.deadline = time.monotonic() + min(seconds, self._request_timeout)

    def warm_up(self) -> None:
        """Do nothing: another process has the model."""

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's outputs by name, with as many items as the inputs have.

        Raises
        ------
        RetryableError
            If there is no process with the model, or the card failed, or nothing is answered in time.
        ModelServerDiedError
            If it died twice on these inputs.
        Exception
            Any error of `LocalEngine.infer`.
        """
        deadline = getattr(self._local, "deadline", None) or time.monotonic() + self._request_timeout
        for attempt in range(_MAX_ATTEMPTS):
            running = False
            connection = self._connection(deadline)
            sent = time.monotonic()
            try:
                connection.settimeout(max(deadline - sent, _RETRY_DELAY))
                protocol.send(connection, {"alone": attempt > 0}, inputs)
                header, outputs = protocol.receive(connection)
                if header.get("running"):
                    running = True
                    connection.settimeout(max(deadline - time.monotonic(), _RETRY_DELAY))
                    header, outputs = protocol.receive(connection)
            except TimeoutError as error:
                waited = time.monotonic() - sent
                # A caller that had little time left cannot tell a hang from a slow start.
                if waited >= self._request_timeout / 2:
                    _kill(connection)
                self._close()
                raise RetryableError(f"the GPU did not answer for {waited:.0f} seconds") from error
            except (protocol.BrokenConnectionError, OSError) as error:
                self._close()
                if running:
                    raise ModelServerDiedError("the process with the model died on this batch, twice") from error
                _log.warning("the process with the model died: %s", error)
            else:
                _raise_error(header)
                return outputs
        raise RetryableError(f"the process with the model died {_MAX_ATTEMPTS} times, on other batches")

    def _connection(self, deadline: float) -> socket.socket:
        """Return this thread's connection, made anew after a fork: two processes on one would mix their messages."""
        if getattr(self._local, "process", None) != os.getpid():
            self._local.socket = self._connect(deadline)
            self._local.process = os.getpid()
        connection: socket.socket = self._local.socket
        return connection

    def _close(self) -> None:
        self._local.socket.close()
        self._local.process = None

    def _connect(self, deadline: float) -> socket.socket:
        starts = 0
        while (left := deadline - time.monotonic()) > 0:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(left)
                connection.connect(str(self._path))
                header, _ = protocol.receive(connection)
            except (protocol.BrokenConnectionError, OSError):
                # There is none, or it died while it loaded the model.
                connection.close()
                if starts == _MAX_STARTS:
                    break
                starts += self._start()
                time.sleep(_RETRY_DELAY)
            else:
                if "error" in header:
                    connection.close()
                _raise_error(header)
                self.inference, self.output_names = header["inference"], header["output_names"]
                return connection
        raise RetryableError(f"the process with the model does not start in time, in {starts} attempts")

    def _start(self) -> bool:
        """Start the process with the model, unless one has the lock; say whether it was started."""
        with contextlib.ExitStack() as stack:
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # The lock is the open file's, which the child has too: it stays locked until the child ends.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            self._server = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-m", "inference_runtime.gpu.model_server", str(self._path)],
                pass_fds=[lock],
                env=environment,
            )
        return True


def _raise_error(header: dict[str, dict[str, str]]) -> None:
    if (found := header.get("error")) is None:
        return
    # The runtime's own have the same name here as there, by which the workflow tells them apart.
    kind = getattr(errors, found["type"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        raise kind(found["message"])
    raise RuntimeError(f"{found['type']}: {found['message']}")


def _kill(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        os.kill(struct.unpack("3i", credentials)[0], signal.SIGKILL)
