"""Signed requests to S3, DynamoDB and Systems Manager, for a device whose network is slow.

botocore's clients of the three take 34 MB more of memory than this module, and tens of MB of disk.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from inference_runtime.edge.cloud.profile import DeviceCredentials
from inference_runtime.errors import StageError
from inference_runtime.s3.address import Locator, service_address
from inference_runtime.s3.signing import signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from inference_runtime.s3.address import Address

SECONDS = 30
"""Seconds that a connection, or a step of sending or receiving, may take. A phone's network hangs for seconds."""

PIECE_BYTES = 16 * 1024
"""Bytes that are sent in one step, so that a slow network ends none of them."""

BUFFER_BYTES = 128 * 1024
"""Bytes that Linux keeps of what is sent: with its 4 MB, a slow network would take minutes after the last step."""

LEAST_RATE = 4 * 1024
"""Bytes a second of the slowest network."""

IDLE_SECONDS = 4.0
"""Seconds after which a connection is not used again: AWS may have closed it."""

_NOTHING = memoryview(b"")
_ERRORS, _TOO_MANY, _SERVER_ERRORS = 300, 429, 500
_BUFFERED = 1024 * 1024  # bytes of a body that may be on their way yet: in Linux, in a proxy and in routers
_TARGETS = {"dynamodb": "DynamoDB_20120810", "ssm": "AmazonSSM"}
_MEDIA_TYPES = {"dynamodb": "application/x-amz-json-1.0", "ssm": "application/x-amz-json-1.1"}
_NEW_CREDENTIALS = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),  # of a key that was replaced
    }
)
# A device whose clock was not set yet is told so in several ways.
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired", "InvalidSignatureException", "AuthFailure"})
_BUSY = frozenset(
    {
        *("RequestTimeout", "RequestTimeoutException", "SlowDown", "ThrottlingException", "RequestLimitExceeded"),
        *("ProvisionedThroughputExceededException", "TransactionConflictException", "ConditionalRequestConflict"),
        "OperationAborted",
    }
)


class AwsError(Exception):
    """A service refused a request.

    Attributes
    ----------
    code
        The service's error code, or the status.
    transient
        Whether another try may succeed although nobody changed a setting.
    """

    def __init__(self, text: str, *, code: str, transient: bool) -> None:
        super().__init__(text)
        self.code = code
        self.transient = transient


class Part(NamedTuple):
    """A part of an object, from a byte to its end."""

    length: int
    pieces: Iterator[bytes]


class _Kept(NamedTuple):
    """A connection that may be used again, once the response to its last request is read."""

    address: Address
    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    since: float


class AwsRequests:
    """Sends requests, one at a time; for one thread.

    Region, endpoints and trusted certificates are those of the environment: `AWS_REGION`, `AWS_ENDPOINT_URL`, that of a
    service such as `AWS_ENDPOINT_URL_S3`, and `AWS_CA_BUNDLE`. `HTTPS_PROXY` and `NO_PROXY` count, too.

    Parameters
    ----------
    pace
        Is called with a number of bytes before they are sent, and waits as long as it wants to bound their rate.

    Raises
    ------
    StageError
        If the environment names no Region.
    """

    def __init__(self, pace: Callable[[int], object] = lambda _: None) -> None:
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not self._region:
            raise StageError("AWS_REGION must be set")
        self._pace = pace
        self._credentials = DeviceCredentials()
        self._locator: Locator | None = None
        self._tls: ssl.SSLContext | None = None
        self._kept: _Kept | None = None

    def put_object(self, bucket: str, key: str, body: memoryview, headers: Mapping[str, str]) -> None:
        """Write an object, unless there is one of that key.

        Raises
        ------
        AwsError
            With the code `PreconditionFailed` if there is one.
        OSError, http.client.HTTPException, RetryableError
            If S3, or who gives credentials, cannot be reached.
        """
        address, path = self._locate(bucket, key)
        given = {**headers, "if-none-match": "*"}
        response = self._send("PUT", "s3", address, path, given, body)
        response.read()
        if "etag" not in response.headers:
            raise http.client.HTTPException("S3 must answer with an ETag, got none: was it somebody on the way?")

    def object_from(self, bucket: str, key: str, start: int) -> Part:
        """Read an object from a byte on. The rest of it must be read before the next request.

        Raises
        ------
        AwsError
            With the code `InvalidRange` if it ends there.
        OSError, http.client.HTTPException, RetryableError
            If S3, or who gives credentials, cannot be reached.
        """
        address, path = self._locate(bucket, key)
        headers = {"range": f"bytes={start}-"} if start else {}
        response = self._send("GET", "s3", address, path, headers)
        pieces = iter(lambda: response.read(PIECE_BYTES), b"")
        return Part(int(response.headers.get("content-length") or 0), pieces)

    def call(self, service: str, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation of ``dynamodb`` or ``ssm``, and return its answer.

        Raises
        ------
        AwsError
            If the service refuses.
        OSError, http.client.HTTPException, RetryableError
            If the service, or who gives credentials, cannot be reached.
        """
        address, path = service_address(service, self._region)
        headers = {"content-type": _MEDIA_TYPES[service], "x-amz-target": f"{_TARGETS[service]}.{operation}"}
        body = memoryview(json.dumps(request).encode())
        answer = self._send("POST", service, address, path, headers, body).read()
        try:
            found = json.loads(answer or b"{}")
        except ValueError as error:  # a portal of a guest network that answers for everybody
            raise http.client.HTTPException(f"{service} answered something other than JSON") from error
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept.connection.close()
            self._kept = None

    def _locate(self, bucket: str, key: str) -> tuple[Address, str]:
        if self._locator is None:
            self._locator = Locator(self._region)
        return self._locator.locate(bucket, key)

    def _send(
        self,
        method: str,
        service: str,
        address: Address,
        path: str,
        headers: Mapping[str, str],
        body: memoryview = _NOTHING,
    ) -> http.client.HTTPResponse:
        signed = signed_headers(
            method,
            path,
            {**headers, "host": address.name},
            body,
            credentials=self._credentials.get(),
            region=self._region,
            service=service,
        )
        sent = {**signed, "accept-encoding": "identity", "user-agent": "cdk-inference-edge"}
        if method != "GET":
            sent["content-length"] = str(len(body))
        connection, used = self._connection(address)
        try:
            response = self._exchange(connection, method, path, sent, body)
        except (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError):
            connection.close()
            if not used:
                raise
            connection = self._connect(address)  # AWS had closed the one that was kept
            try:
                response = self._exchange(connection, method, path, sent, body)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            connection.close()
            raise
        if response.status >= _ERRORS:
            error = _error(service, response)
            self._keep(address, connection, response)
            if error.code in _NEW_CREDENTIALS:
                self._credentials.reset()
            raise error
        self._keep(address, connection, response)
        return response

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: memoryview
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, path, self._pieces(body) if len(body) else None, headers)
        except (ConnectionError, ssl.SSLEOFError):
            # A service that refuses a large object says so, and closes, before it has read everything.
            with suppress(OSError, http.client.HTTPException):
                response = connection.getresponse()
                response.will_close = True
                return response
            raise
        connection.sock.settimeout(SECONDS + min(len(body), _BUFFERED) / LEAST_RATE)
        response = connection.getresponse()
        if connection.sock is not None:
            connection.sock.settimeout(SECONDS)
        return response

    def _pieces(self, body: memoryview) -> Iterator[memoryview]:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self._pace(len(piece))
            yield piece

    def _connection(self, address: Address) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        kept, self._kept = self._kept, None
        if kept is not None:
            young = time.monotonic() - kept.since < IDLE_SECONDS
            if kept.address == address and young and kept.response.isclosed():
                return kept.connection, True
            kept.connection.close()
        return self._connect(address), False

    def _connect(self, address: Address) -> http.client.HTTPConnection:
        if address.secure:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
            proxy = None if proxy_bypass(address.host) else getproxies().get("https")
            connection: http.client.HTTPConnection = _tunnel(address, proxy, self._tls)
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=SECONDS)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        return connection

    def _keep(
        self, address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        """Keep a connection for the next request, which closes it unless the response is read by then."""
        if not response.will_close:
            self._kept = _Kept(address, connection, response, time.monotonic())


def _tunnel(address: Address, proxy: str | None, tls: ssl.SSLContext) -> http.client.HTTPSConnection:
    """Return a connection with TLS, through the proxy that `HTTPS_PROXY` names, if there is one."""
    if not proxy:
        return http.client.HTTPSConnection(address.host, address.port, timeout=SECONDS, context=tls)
    url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        connection = http.client.HTTPSConnection(url.hostname or "", url.port or 80, timeout=SECONDS, context=tls)
    except ValueError as error:
        raise OSError("HTTPS_PROXY must be http://host:port") from error
    headers = {}
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["proxy-authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    connection.set_tunnel(address.host, address.port, headers)
    return connection


def _error(service: str, response: http.client.HTTPResponse) -> AwsError:
    text = response.read().decode("utf-8", "replace")
    code, message = "", ""
    if service == "s3":
        code, message = _element(text, "Code"), _element(text, "Message")
    else:
        try:
            told = json.loads(text)
            code = str(told.get("__type", "")).rpartition("#")[2]
            message = str(told.get("message") or told.get("Message") or "")
        except (ValueError, AttributeError):  # not the service, but somebody on the way
            pass
    code = code or str(response.status)
    transient = (
        response.status >= _SERVER_ERRORS
        or response.status == _TOO_MANY
        or code in _BUSY | _CLOCK | _NEW_CREDENTIALS
        or code.isdecimal()  # no service of AWS says nothing: somebody on the way does
    )
    if code == "412":
        code, transient = "PreconditionFailed", False
    return AwsError(f"{code}: {message or response.reason} (status {response.status})", code=code, transient=transient)


def _element(text: str, name: str) -> str:
    return text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
