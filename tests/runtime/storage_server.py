"""A server that answers as S3 does, and fails when it is told to."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS = Path(__file__).with_name("tls")

ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>what it says</Message></Error>'


class StorageServer:
    """The stored objects by the path as it was sent. The requests, their connections, and those that are open. The
    troubles that the next requests meet.

    A trouble is None, a status, S3's error code, or a word. The server may `hang`, `reset` before the answer, `cut` the
    body, or `close` after the answer, without notice. The body of a `late` answer is sent when the client sends
    something more, or goes away.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections: set[tuple[str, int]] = set()
        self.open: set[tuple[str, int]] = set()
        self.troubles: list[int | str | None] = []
        self.url = ""
        self._lock = threading.Lock()
        self.end = threading.Event()

    def arrived(self, handler: BaseHTTPRequestHandler) -> int | str | None:
        """Note a request, and return its trouble."""
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append((handler.command, handler.path, headers))
            self.connections.add(handler.client_address)
            return self.troubles.pop(0) if self.troubles else None


def _handler(state: StorageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            trouble = state.arrived(self)
            if self._fails(trouble):
                return
            data = state.objects.get(self.path)
            if data is None:
                self._answer(404, ERROR.format("NoSuchKey").encode())
                return
            status, more = 200, {}
            if wanted := self.headers.get("range"):
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
                if first >= len(data):
                    self._answer(416, ERROR.format("InvalidRange").encode())
                    return
                part = data[first : last + 1]
                status, more = 206, {"content-range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
                data = part
            self._answer(status, data, more, trouble)
            if trouble == "close":
                self.close_connection = True

        def do_PUT(self) -> None:
            trouble = state.arrived(self)
            data = self.rfile.read(int(self.headers["content-length"]))
            if not self._fails(trouble):
                state.objects[self.path] = data
                self._answer(200, b"")

        def _fails(self, trouble: int | str | None) -> bool:
            if trouble in (None, "cut", "late", "close"):
                return False
            if trouble == "hang":
                state.end.wait()
                self.close_connection = True
            elif trouble == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            elif isinstance(trouble, int):
                self._answer(trouble, b"")
            else:
                self._answer(400, ERROR.format(trouble).encode())
            return True

        def _answer(
            self, status: int, data: bytes, more: dict[str, str] | None = None, trouble: int | str | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if trouble == "late":
                select.select([self.connection], [], [], 30)
            self.wfile.write(data[: len(data) // 2] if trouble == "cut" else data)
            if trouble == "cut":
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                state.open.add(self.client_address)
                super().handle()
            except OSError:  # the client has given up
                self.close_connection = True
            finally:
                state.open.discard(self.client_address)

    return Handler


@contextmanager
def storage_server(*, tls: bool = False) -> Iterator[StorageServer]:
    """Run one for the length of a block."""
    state = StorageServer()

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """Say nothing: clients that go away are part of the tests."""

    with Server(("127.0.0.1", 0), _handler(state)) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        state.url = f"http{'s' if tls else ''}://localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield state
        finally:
            state.end.set()
            server.shutdown()
