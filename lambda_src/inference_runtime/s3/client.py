"""A client that reads and writes objects of S3, and imports nothing but the standard library.

It serves the function whose cold start counts. The guide on delivery compares it with botocore, which takes longer to
import than a model to load. It also compares obstore, which survives neither a fork nor a snapshot. Like botocore, this
client makes two attempts, has time limits, and uses connections again.
"""

from __future__ import annotations

import http.client
import os
import select
import ssl
import time
from collections import deque
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from inference_runtime.errors import RetryableError
from inference_runtime.lifecycle import after_restore, before_snapshot
from inference_runtime.s3.address import Address, Locator
from inference_runtime.s3.credentials import CredentialSource
from inference_runtime.s3.signing import signed_headers
from inference_runtime.timeouts import ATTEMPTS, CONNECT_TIMEOUT, MAX_CONNECTIONS, READ_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

IDLE_SECONDS = 5.0
"""A connection that has been idle for longer is not used again. S3 may have closed it, and a function that was frozen
has not heard of it."""

MAX_RETRY_DELAY = 1.0
"""Seconds before the second attempt, at most."""

_PARTIAL, _ERRORS, _TOO_MANY, _SERVER_ERRORS = 206, 300, 429, 500
_TRANSIENT = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestThrottled"})
_REFUSED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})


class S3Error(Exception):
    """S3 refused a request, or answered something other than what was asked for.

    Attributes
    ----------
    code
        S3's error code, or the status.
    transient
        Whether another attempt may succeed.
    """

    def __init__(self, text: str, *, code: str, transient: bool) -> None:
        super().__init__(text)
        self.code = code
        self.transient = transient


class _StaleConnectionError(Exception):
    """A connection that was used before turned out to be closed."""


class _Request(NamedTuple):
    """A request to S3.

    Attributes
    ----------
    method
        `GET` or `PUT`.
    headers
        Beside those of every request.
    body
        To write.
    buffer
        To read a part of an object into.
    size
        Bytes that the object has of which a part is read.
    """

    method: str
    bucket: str
    key: str
    headers: Mapping[str, str] = {}
    body: bytes | memoryview = b""
    buffer: memoryview | None = None
    size: int = 0


class S3Client:
    """Reads and writes objects; thread-safe. See `interfaces.ObjectStore`.

    The region, the endpoint and the credentials are those of the environment, as Lambda sets it: `AWS_REGION`,
    `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_USE_FIPS_ENDPOINT`, and what `CredentialSource` reads.

    Parameters
    ----------
    attempts
        How often a request is tried.

    Raises
    ------
    RetryableError
        If the environment names no region, or an endpoint that is none.
    """

    def __init__(self, attempts: int = ATTEMPTS) -> None:
        self._attempts = attempts
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not self._region:
            raise RetryableError("environment variable AWS_REGION is not set")
        self._locator = Locator(self._region)
        self._credentials = CredentialSource()
        self._idle: deque[tuple[Address, http.client.HTTPConnection, float]] = deque()
        self._tls: ssl.SSLContext | None = None

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object.

        Raises
        ------
        RetryableError
            If S3 does not give it; the text has S3's error code.
        """
        return self._retry(_Request("GET", bucket, key))

    def put(self, bucket: str, key: str, data: bytes | memoryview) -> None:
        """Write an object.

        Raises
        ------
        RetryableError
            If S3 does not take it; the text has S3's error code.
        """
        self._retry(_Request("PUT", bucket, key, body=memoryview(data).cast("B")))

    def read_into(self, bucket: str, key: str, start: int, buffer: memoryview, *, size: int) -> None:
        """Read part of an object into a buffer.

        Parameters
        ----------
        bucket, key
            The object.
        start
            First byte, from 0.
        buffer
            Bytes to fill; its length is that of the part.
        size
            Bytes that the whole object has.

        Raises
        ------
        RetryableError
            If S3 does not give the part, or the object has another size.
        """
        headers = {"range": f"bytes={start}-{start + len(buffer) - 1}"}
        self._retry(_Request("GET", bucket, key, headers, buffer=buffer, size=size))

    def reset(self) -> None:
        """Drop connections and credentials, as after a restore from a snapshot."""
        with suppress(IndexError):  # there are no more
            while True:
                self._idle.pop()[1].close()
        self._credentials.reset()

    def _retry(self, request: _Request) -> bytes:
        verb = "read" if request.method == "GET" else "write"
        address, path = self._locator.locate(request.bucket, request.key)
        for attempt in range(1, self._attempts + 1):
            try:
                return self._request(request, address, path)
            except (S3Error, OSError, http.client.HTTPException) as error:
                if isinstance(error, S3Error):
                    text, again = str(error), error.transient
                    if error.code in _REFUSED:
                        self._credentials.reset()
                else:
                    text, again = f"{type(error).__name__}: {error}", True
                if attempt == self._attempts or not again:
                    raise RetryableError(f"cannot {verb} s3://{request.bucket}/{request.key}: {text}") from error
            time.sleep(MAX_RETRY_DELAY * os.urandom(1)[0] / 255)
        raise AssertionError

    def _request(self, request: _Request, address: Address, path: str) -> bytes:
        signed = signed_headers(
            request.method,
            path,
            {**request.headers, "host": address.name},
            request.body,
            credentials=self._credentials.get(),
            region=self._region,
        )
        # The length is not signed: botocore does not either.
        sent = {**signed, "accept-encoding": "identity", "user-agent": "cdk-inference"}
        if request.method == "PUT":
            sent["content-length"] = str(len(request.body))
        while True:
            used = self._idle_connection(address)
            connection = used if used is not None else self._connect(address)
            try:
                response = _send(connection, request, path, sent, reused=used is not None)
                answer = _read_response(response, request.buffer, request.size)
            except _StaleConnectionError:
                connection.close()
                continue
            except S3Error:
                self._release(address, connection, response)
                raise
            except BaseException:
                connection.close()
                raise
            self._release(address, connection, response)
            return answer

    def _idle_connection(self, address: Address) -> http.client.HTTPConnection | None:
        """Return a connection that was used before and still seems to be open."""
        for _ in range(len(self._idle)):
            try:
                where, connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if where != address:
                self._idle.appendleft((where, connection, since))
            # By the clock on the wall: the other one stands still while the function is frozen.
            elif 0 <= time.time() - since < IDLE_SECONDS and _is_open(connection):
                return connection
            else:
                connection.close()
        return None

    def _connect(self, address: Address) -> http.client.HTTPConnection:
        if address.secure:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, timeout=CONNECT_TIMEOUT, context=self._context()
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=CONNECT_TIMEOUT)
        connection.connect()
        connection.sock.settimeout(READ_TIMEOUT)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
        return self._tls

    def _release(
        self, address: Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._idle.append((address, connection, time.time()))
            if len(self._idle) > MAX_CONNECTIONS:
                with suppress(IndexError):  # another thread was faster
                    self._idle.popleft()[1].close()


def _is_open(connection: http.client.HTTPConnection) -> bool:
    """Return whether nothing has arrived on an idle connection: what does arrive there is its end."""
    try:
        return not select.select([connection.sock], [], [], 0)[0]
    except (OSError, ValueError, TypeError):
        return False


def _send(
    connection: http.client.HTTPConnection,
    request: _Request,
    path: str,
    headers: dict[str, str],
    *,
    reused: bool,
) -> http.client.HTTPResponse:
    """Send a request and return the response, as far as its headers.

    Raises
    ------
    _StaleConnectionError
        If a connection that was used before has been closed. Reading and writing whole objects may be done twice.
    """
    try:
        connection.request(request.method, path, request.body or None, headers)
        return connection.getresponse()
    except (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError) as error:
        if reused:
            raise _StaleConnectionError from error
        raise


def _read_response(response: http.client.HTTPResponse, buffer: memoryview | None, size: int) -> bytes:
    """Read what S3 answers: into the buffer, if there is one.

    Raises
    ------
    S3Error
        If S3 refuses, or answers something other than what was asked for.
    """
    if response.status >= _ERRORS:
        raise _s3_error(response)
    if buffer is None:
        return response.read()
    found = response.headers.get("content-range", "")
    if response.status != _PARTIAL or not found.endswith(f"/{size}"):
        length = found.rpartition("/")[2] or response.headers.get("content-length")
        # The body is not read: `_release` closes the connection, on which the rest still arrives.
        text = f"the object has {length} bytes, expected {size}"
        raise S3Error(text, code="WrongSize", transient=False)
    filled = 0
    while filled < len(buffer):
        count = response.readinto(buffer[filled:])
        if not count:
            raise http.client.IncompleteRead(b"", len(buffer) - filled)
        filled += count
    response.read()  # nothing is left, and the connection may be used again
    return b""


def _s3_error(response: http.client.HTTPResponse) -> S3Error:
    text = response.read().decode("utf-8", "replace")
    code = _element(text, "Code") or str(response.status)
    message = _element(text, "Message") or response.reason
    request = response.headers.get("x-amz-request-id", "")
    transient = (
        response.status >= _SERVER_ERRORS or response.status == _TOO_MANY or code in _TRANSIENT or code in _REFUSED
    )
    told = f"{code}: {message} (status {response.status}{f', request {request}' if request else ''})"
    return S3Error(told, code=code, transient=transient)


def _element(text: str, name: str) -> str:
    """Return the text of an element of S3's answer, which is too plain to import a parser of XML for."""
    return text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


@cache
def s3_client(attempts: int = ATTEMPTS) -> S3Client:
    """Return the process's client of so many attempts, which is made when it is first needed.

    Raises
    ------
    RetryableError
        As `S3Client` does.
    """
    objects = S3Client(attempts)
    before_snapshot(objects.reset)
    after_restore(objects.reset)
    return objects
