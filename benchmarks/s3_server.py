"""A server for the benchmark of S3 clients: it speaks TLS, and refuses what is not signed as S3 demands."""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import trustme
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

KEY_ID, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI", "eu-central-1"


def is_signed(method: str, url: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request has the signature that botocore would give it."""
    algorithm, _, rest = headers.get("authorization", "").partition(" ")
    found = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if algorithm != "AWS4-HMAC-SHA256" or not found.get("Credential", "").startswith(f"{KEY_ID}/"):
        return False
    signed = {name: headers.get(name, "") for name in found.get("SignedHeaders", "").split(";")}
    request = AWSRequest(method, url, headers=signed)
    request.context["timestamp"] = headers.get("x-amz-date", "")
    auth = S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return auth.signature(text, request) == found.get("Signature")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed("GET", f"https://{headers['host']}{self.path}", headers):
            self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif (data := self.server.objects.get(self.path)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, data)

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "content-length": str(len(data)),
            "etag": f'"{len(data):032x}"',
            "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """Serves objects by their paths."""

    def __init__(self, objects: Mapping[str, bytes], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


@contextmanager
def s3_server(objects: Mapping[str, bytes], certificates: Path) -> Iterator[dict[str, str]]:
    """Serve objects for the length of a block, and yield the environment of a client.

    Parameters
    ----------
    objects
        By ``/bucket/key``.
    certificates
        File with the certificates that a system trusts; a copy of it with the server's authority is written next to it.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusted = certificates.with_name("trusted.pem")
    trusted.write_bytes(certificates.read_bytes() + b"\n" + authority.cert_pem.bytes())
    with Server(objects, context) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": KEY_ID,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_ENDPOINT_URL_S3": f"https://localhost:{server.server_port}",
                "AWS_ENDPOINT_URL": f"https://localhost:{server.server_port}",
                "AWS_CA_BUNDLE": str(trusted),
                "SSL_CERT_FILE": str(trusted),
            }
        finally:
            server.shutdown()
