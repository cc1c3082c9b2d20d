"""The process that has the model on the card, for all processes of the execution environment: `model_client` starts it.

Run as `python -m inference_runtime.gpu.model_server SOCKET`. The process that starts it holds the lock that allows one
such process, and passes it on. The lock is free again when this process has ended, however that came about.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_runtime.engine.engine import EXIT_DELAY, LocalEngine
from inference_runtime.errors import reason_of
from inference_runtime.gpu.dynamic_batcher import DynamicBatcher
from inference_runtime.tensors import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inference_runtime.tensors.tensor import Tensor

IDLE_TIMEOUT = 10.0
"""Seconds without a connection after which the process ends: those that it served are gone."""

_SEND_TIMEOUT = 10.0  # seconds; a client that does not read keeps the others waiting meanwhile

_log = logging.getLogger(__name__)


class ModelServer:
    """Serves the model on a socket.

    A connection's first message is from this side: where the model runs, and its outputs; or the error that it did not
    load with. Then each request, the inputs, gets the outputs, or an error. A request that must be run
    by itself is told when it is: if the process dies then, that request is the cause.

    Parameters
    ----------
    path
        The path of the socket.
    """

    def __init__(self, path: Path) -> None:
        self._engine: Future[DynamicBatcher] = Future()
        self._connections = 0
        self._callers = 0  # connections that have asked for something: the parent of Lambda's workers never does
        self._last_left = time.monotonic()
        self._lock = threading.Lock()
        self._path = path
        path.unlink(missing_ok=True)  # a dead one's; the lock says that there is no other
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        # Before the model is loaded: those who wait for it notice at once if it does not load.
        self._socket.listen(128)

    def run(self) -> int:
        """Serve until nobody is left; return the process's exit status."""
        threading.Thread(target=self._load, name="load", daemon=True).start()
        self._socket.settimeout(IDLE_TIMEOUT / 10)
        while not self._done():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                connection.settimeout(None)
                with self._lock:
                    self._connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()
        self._path.unlink(missing_ok=True)
        return 1 if self._failed() else 0

    def _load(self) -> None:
        try:
            self._engine.set_result(DynamicBatcher(LocalEngine(), callers=lambda: self._callers))
        except BaseException as error:
            _log.exception("the model does not load")
            self._engine.set_exception(error)

    def _failed(self) -> bool:
        return self._engine.done() and self._engine.exception() is not None

    def _done(self) -> bool:
        with self._lock:
            if self._connections:
                return False
            return time.monotonic() - self._last_left > (EXIT_DELAY if self._failed() else IDLE_TIMEOUT)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer(connection)
        except (protocol.BrokenConnectionError, OSError) as error:
            _log.debug("a client left: %s", error)
        finally:
            with self._lock:
                self._connections -= 1
                self._last_left = time.monotonic()

    def _answer(self, connection: socket.socket) -> None:
        try:
            engine = self._engine.result()
        except Exception as error:
            protocol.send(connection, _described(error), {})
            return
        if engine.broken:
            return
        protocol.send(connection, {"inference": engine.inference, "output_names": engine.output_names}, {})
        header, inputs = protocol.receive(connection)
        with self._count_caller():
            while self._answer_one(connection, engine, header, inputs):
                header, inputs = protocol.receive(connection)

    @contextlib.contextmanager
    def _count_caller(self) -> Iterator[None]:
        with self._lock:
            self._callers += 1
        try:
            yield
        finally:
            with self._lock:
                self._callers -= 1

    @staticmethod
    def _answer_one(
        connection: socket.socket, engine: DynamicBatcher, header: dict[str, Any], inputs: dict[str, Tensor]
    ) -> bool:
        """Answer a request; say whether the connection goes on."""
        if header.get("alone"):
            return engine.run_exclusively(partial(_answer_alone, connection, inputs))
        try:
            outputs = engine.infer(inputs)
        except Exception as error:
            if engine.broken:
                return False  # whose items are to blame shows when each comes again, by itself, to the next process
            protocol.send(connection, _described(error), {})
        else:
            protocol.send(connection, {}, outputs)
        return True


def _answer_alone(connection: socket.socket, inputs: Mapping[str, Tensor], engine: LocalEngine) -> bool:
    """Answer a request of which may be known that this process died on it; say whether that was done.

    Nothing else runs from the first message to the last: what dies in between dies of this request.
    """
    if engine.broken:
        return False
    connection.settimeout(_SEND_TIMEOUT)
    try:
        protocol.send(connection, {"running": True}, {})
        try:
            outputs = engine.infer(inputs)
        except Exception as error:
            protocol.send(connection, _described(error), {})
        else:
            protocol.send(connection, {}, outputs)
    except OSError:
        return False
    connection.settimeout(None)
    return True


def _described(error: BaseException) -> dict[str, dict[str, str]]:
    message = error.args[0] if error.args and isinstance(error.args[0], str) else reason_of(error)
    return {"error": {"type": type(error).__name__, "message": message[:10_000]}}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    status = ModelServer(Path(sys.argv[1])).run()
    os._exit(status)  # not through destructors of CUDA, which have been seen to hang
