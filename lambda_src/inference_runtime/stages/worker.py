"""A separate process that answers requests, so that one that crashes or hangs ends alone.

It is not forked: this one has threads, and in a fused function the model. A pair of sockets connects the two, since
queues and semaphores need `/dev/shm`, which Lambda does not have.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from inference_runtime.tensors import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference_runtime.tensors.tensor import Tensor

_STDERR = 2
_SHORTEST = 0.001  # a socket's timeout of 0 means something else
_EXIT_SECONDS = 5.0  # seconds in which a process that has closed its end must be gone


class DiedError(Exception):
    """The process is gone."""


class Worker:
    """The process, and the connection to it. It dies when the thread ends that made it.

    Parameters
    ----------
    module
        Is run with the arguments: the descriptor of a connected socket, `argument`, and the id of this process.
    argument
        More that it has to know.

    Raises
    ------
    OSError
        If the process cannot be started.
    """

    def __init__(self, module: str, argument: str = "") -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), argument, str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # emulators of Lambda read answers from stdout
                start_new_session=True,
            )

    def ask(
        self, header: dict[str, Any], seconds: float, tensors: Mapping[str, Tensor] | None = None
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Send a request, and return the answer: its header and its tensors.

        Raises
        ------
        TimeoutError
            If that takes longer than `seconds`.
        DiedError
            If the process is gone.
        """
        began = time.monotonic()
        self._connection.settimeout(_timeout(seconds))
        try:
            protocol.send(self._connection, header, tensors or {})
        except TimeoutError:
            raise
        except OSError:
            raise DiedError(self._death()) from None
        return self.receive(seconds - (time.monotonic() - began))

    def receive(self, seconds: float) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Return the next answer; see `ask`."""
        self._connection.settimeout(_timeout(seconds))
        try:
            return protocol.receive(self._connection)
        except TimeoutError:
            raise
        except (protocol.BrokenConnectionError, OSError):
            raise DiedError(self._death()) from None

    def close(self) -> None:
        """End the process, and all that it has started."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _death(self) -> str:
        """Say how the process ended."""
        try:
            status = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if status >= 0:
            return f"ended with exit status {status}"
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"


def _timeout(seconds: float) -> float | None:
    return max(seconds, _SHORTEST) if math.isfinite(seconds) else None
