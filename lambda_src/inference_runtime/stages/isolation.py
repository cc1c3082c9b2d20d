"""Preprocesses items in a separate process, so that one that crashes or hangs ends alone.

The process is started for a batch and ends with it. It is not forked: this one has threads, and in a fused function the
model. A pair of sockets connects the two, since queues and semaphores need `/dev/shm`, which Lambda does not have.
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
from typing import TYPE_CHECKING

from inference_runtime.errors import RejectItem
from inference_runtime.stages.time_limit import NotReadyError, TookTooLongError
from inference_runtime.tensors import protocol
from inference_runtime.tensors.tensor import Tensor, arrays_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array

_STDERR = 2
_SHORTEST = 0.001  # a socket's timeout of 0 means something else
_EXIT_SECONDS = 5.0  # seconds in which a process that has closed its end must be gone


class IsolatedError(Exception):
    """An item made preprocessing fail, or killed its process.

    Attributes
    ----------
    error
        Name of the error.
    cause
        Its text.
    """

    def __init__(self, error: str, cause: str, traceback: str = "") -> None:
        super().__init__(f"{error}: {cause}" + (f"\n{traceback}" if traceback else ""))
        self.error = error
        self.cause = cause


class _DiedError(Exception):
    """The process is gone."""


class Isolation:
    """A stage's user code in another process. To be used in one thread: the process dies when that thread ends.

    Parameters
    ----------
    prefix
        The beginning of the names of the user code's variables, see `load_stage`.
    left
        Returns the seconds that are left for all items, in which a process must start.
    """

    def __init__(self, prefix: str, left: Callable[[], float]) -> None:
        self._prefix = prefix
        self._left = left
        self._worker: _Worker | None = None
        self._used = False

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises
        ------
        NotReadyError
            If it is not ready in time, or does not load the user code, which this process has loaded.
        """
        if self._worker is None:
            self._worker, self._used = _started(self._prefix, self._left()), False

    def inputs(self, data: bytes, item: Item, seconds: float) -> dict[str, Array]:
        """Return the model's inputs for an item.

        Parameters
        ----------
        data, item
            The arguments of the user's function.
        seconds
            That it may take.

        Raises
        ------
        RejectItem
            If the user's function raises it, or the inputs do not fit the model.
        TookTooLongError
            If it took longer; the process is gone.
        IsolatedError
            If the user's function raises anything else, or the process died.
        NotReadyError
            If a new process was needed, and does not start.
        """
        self.start()
        assert self._worker is not None  # noqa: S101 - for mypy
        used, self._used = self._used, True
        try:
            return self._worker.inputs(data, item, seconds)
        except TimeoutError as error:
            self.close()
            raise TookTooLongError(seconds) from error
        except IsolatedError as error:
            if error.error == MemoryError.__name__:
                self.close()  # it may have little left
            raise
        except _DiedError as error:
            self.close()
            if not used:
                raise IsolatedError("ProcessDiedError", str(error)) from error
        # An earlier item may have broken the process, so this one gets a process to itself.
        return self.inputs(data, item, seconds)

    def close(self) -> None:
        """End the process, and all that it has started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class _Worker:
    """The process, and the connection to it."""

    def __init__(self, prefix: str) -> None:
        self._connection, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "inference_runtime.stages.isolated"]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [*command, str(theirs.fileno()), prefix, str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # emulators of Lambda read answers from stdout
                start_new_session=True,
            )

    def inputs(self, data: bytes, item: Item, seconds: float) -> dict[str, Array]:
        """Return the inputs for an item."""
        began = time.monotonic()
        self._connection.settimeout(_timeout(seconds))
        try:
            protocol.send(self._connection, {"item": item.to_json()}, {"data": Tensor("uint8", [len(data)], data)})
        except TimeoutError:
            raise
        except OSError:
            raise _DiedError(self._death()) from None
        return arrays_of(self.receive(seconds - (time.monotonic() - began)))

    def receive(self, seconds: float) -> Mapping[str, Tensor]:
        """Return the tensors of the next answer."""
        self._connection.settimeout(_timeout(seconds))
        try:
            header, tensors = protocol.receive(self._connection)
        except TimeoutError:
            raise
        except (protocol.BrokenConnectionError, OSError):
            raise _DiedError(self._death()) from None
        if header.get("rejected"):
            raise RejectItem(header["cause"])
        if "error" in header:
            raise IsolatedError(header["error"], header["cause"], header["traceback"])
        return tensors

    def close(self) -> None:
        """End it."""
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


def _started(prefix: str, seconds: float) -> _Worker:
    """Return a process that has loaded the user code."""
    try:
        worker = _Worker(prefix)
    except OSError as error:  # no memory, say
        raise NotReadyError(f"the process for isolated items does not start: {error}") from error
    try:
        worker.receive(seconds)
    except (_DiedError, TimeoutError, IsolatedError, RejectItem) as error:
        worker.close()
        why = f"it is not ready after {seconds:.1f} s" if isinstance(error, TimeoutError) else error
        raise NotReadyError(f"the process for isolated items does not start: {why}") from error
    except BaseException:
        worker.close()
        raise
    return worker


def _timeout(seconds: float) -> float | None:
    return max(seconds, _SHORTEST) if math.isfinite(seconds) else None
