"""A company's proxy: it opens each connection, and signs for each host with the company's certificate."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import PROTOCOL_TLS_SERVER, SSLContext, SSLError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import trustme


@contextmanager
def company_proxy(authority: trustme.CA, files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files, by their URL, to whoever trusts the authority.

    Parameters
    ----------
    authority
        It signs for whatever host a client asks for.
    files
        Contents by URL.

    Yields
    ------
    str
        The proxy's own URL.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        host = ""

        def do_CONNECT(self) -> None:
            self.host = self.path.partition(":")[0]
            self.send_response(200)
            self.end_headers()
            context = SSLContext(PROTOCOL_TLS_SERVER)
            authority.issue_cert(self.host).configure_cert(context)
            try:
                self.connection = context.wrap_socket(self.connection, server_side=True)
            except (SSLError, OSError):  # the client does not trust us
                self.close_connection = True
                return
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def do_GET(self) -> None:
            content = files.get(f"https://{self.host}{self.path}")
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815 # the name that http.server looks for

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
