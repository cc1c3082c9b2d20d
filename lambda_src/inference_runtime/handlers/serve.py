"""The inference function as a container on SageMaker: GET /ping, and POST /invocations with the function's event.

Run as `python -m inference_runtime.handlers.serve`. Python's own HTTP server is enough here: SageMaker's proxy is the
only client, and a request takes as long as a model's batch does. One thread serves each connection, and what several
ask for at about the same time runs as one batch.
(https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html)
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

from inference_runtime.errors import RetryableError
from inference_runtime.gpu.dynamic_batcher import DynamicBatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference_runtime.engine.engine import LocalEngine

MAX_BODY = 64 * 1024**2
"""Most bytes of a request: an event is far smaller, its tensors are in the work bucket."""

MAX_REQUEST_SECONDS = 3600.0
"""Seconds that a request may take if `ANSWER_SECONDS` does not say so: SageMaker's own limit."""

SHUTDOWN_SECONDS = 25.0
"""Seconds for what is being answered when the container is stopped: SageMaker kills it after 30."""

_MAX_LINE = 64
_PAUSE = 0.1
_WATCH = 0.5

_log = logging.getLogger(__name__)


class BadRequestError(Exception):
    """The request is not one that this server can answer."""


class RequestContext:
    """As much of Lambda's context as the handler reads: how much time a request has left.

    Parameters
    ----------
    end
        When SageMaker gives the request up, by the monotonic clock.
    """

    def __init__(self, end: float) -> None:
        self._end = end

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that are left."""
        return max(0, int((self._end - time.monotonic()) * 1000))


class Server(ThreadingHTTPServer):
    """Answers with what a handler returns.

    Parameters
    ----------
    port
        To listen on; 0 for any.
    handler
        The function's. It takes an event, and when its request came, by the monotonic clock.
    healthy
        Tells whether the handler can still do its work.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: Callable[[dict[str, Any], float], Any], healthy: Callable[[], bool]) -> None:
        super().__init__(("", port), _Requests)
        self._handler = handler
        self.healthy = healthy
        self._answering = 0
        self._changed = threading.Condition()

    def handle_event(self, event: dict[str, Any], came: float) -> Any:  # noqa: ANN401 - what the handler returns
        """Return what the handler returns."""
        with self._changed:
            self._answering += 1
        try:
            return self._handler(event, came)
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify()

    def finish(self) -> None:
        """Take no more requests, and wait for those that are being answered."""
        self.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, timeout=SHUTDOWN_SECONDS)
        time.sleep(_PAUSE)  # for the last answer on its way


class _Requests(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # connections stay open
    timeout = 600  # of a connection on which nothing is said; asynchronous requests may take that long

    def do_GET(self) -> None:
        if self.path != "/ping":
            self._answer(HTTPStatus.NOT_FOUND, _described("NotFound", f"there is no {self.path}"))
        elif self.server.healthy():
            self._answer(HTTPStatus.OK, {})
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _described("RetryableError", "the GPU failed"))

    def do_POST(self) -> None:
        came = time.monotonic()
        try:
            body = self._body()
            if self.path != "/invocations":
                self._answer(HTTPStatus.NOT_FOUND, _described("NotFound", f"there is no {self.path}"))
                return
            event = _event(body)
        except BadRequestError as error:
            self.close_connection = True  # the rest of the body may be in the way of the next request
            self._answer(HTTPStatus.BAD_REQUEST, _described("BadRequestError", str(error)))
            return
        try:
            answer = self.server.handle_event(event, came)
        except RetryableError as error:
            _log.warning("%s", error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _described("RetryableError", str(error)))
        except Exception as error:
            _log.exception("the request failed")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, _described(type(error).__name__, str(error)))
        else:
            self._answer(HTTPStatus.OK, answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            raise BadRequestError("there is no Content-Length") from None
        return self._read(length, 0)

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline(_MAX_LINE).split(b";")[0], 16)
            except ValueError:
                raise BadRequestError("a chunk has no size") from None
            body += self._read(size, len(body))
            if size == 0:
                while self.rfile.readline(_MAX_LINE).strip():
                    pass  # trailers
                return bytes(body)
            self.rfile.readline(_MAX_LINE)

    def _read(self, length: int, already: int) -> bytes:
        if not 0 <= length <= MAX_BODY - already:
            raise BadRequestError(f"the body has over {MAX_BODY:,} bytes, or a negative number of them")
        data = self.rfile.read(length)
        if len(data) < length:
            raise BadRequestError(f"the body ends after {already + len(data):,} bytes")
        return data

    def _answer(self, status: HTTPStatus, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log a request; health checks come every few seconds, and tell nothing."""
        if self.path != "/ping":
            _log.info(format, *args)


def _event(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(event, dict) or not isinstance(event.get("groups"), list):
        raise BadRequestError('the body is no event: expected {"groups": [...]}')
    return event


def _described(kind: str, message: str) -> dict[str, str]:
    return {"errorType": kind, "errorMessage": message}


def watch(engine: DynamicBatcher, most: float) -> None:
    """End this process when the model runs on something for longer than a request may take: the GPU hangs.

    SageMaker has given the request up by then, and starts another container for one that ended.
    """
    while engine.running_seconds <= most:
        time.sleep(_WATCH)
    _log.critical("the model has been running for over %.0f seconds, this process ends", most)
    time.sleep(2 * _WATCH)  # for a health check, which says so
    sys.stdout.flush()
    os._exit(1)


def main() -> None:
    """Serve the function until the container is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stdout)
    os.environ.pop("GPU_CONCURRENCY", None)  # one process serves all here
    from inference_runtime.handlers import infer  # noqa: PLC0415 - opens the model

    engine = DynamicBatcher(cast("LocalEngine", infer.engine))
    infer.engine = engine
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    most = float(os.environ.get("ANSWER_SECONDS") or MAX_REQUEST_SECONDS)

    def healthy() -> bool:
        return not engine.broken and engine.running_seconds <= most

    server = Server(port, lambda event, came: infer.handler(event, RequestContext(came + most)), healthy)
    threading.Thread(target=watch, args=[engine, most], daemon=True).start()

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()  # waits for the loop, which this interrupts

    signal.signal(signal.SIGTERM, stop)
    _log.info("ready on port %d, the model runs on the %s", server.server_port, engine.inference)
    server.serve_forever(poll_interval=0.1)
    server.finish()
    sys.stdout.flush()
    os._exit(0)  # not through destructors of CUDA, which have been seen to hang


if __name__ == "__main__":
    main()
