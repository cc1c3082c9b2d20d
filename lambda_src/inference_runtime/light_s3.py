"""A client that reads and writes objects of S3, and imports nothing but the standard library.

For the function whose cold start counts: importing botocore and making a client takes longer than loading a model. It
does what this package needs, whole objects and ranges of them, with botocore's answers to the same trouble: two
attempts, time limits, connections that are used again.
"""

from __future__ import annotations

import http.client
import os
import select
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from inference_runtime.errors import RetryableError
from inference_runtime.lifecycle import after_restore, before_snapshot
from inference_runtime.light_s3_credentials import CredentialSource
from inference_runtime.light_s3_signing import signed_headers
from inference_runtime.timeouts import ATTEMPTS, CONNECT_TIMEOUT, MAX_CONNECTIONS, READ_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

IDLE_SECONDS = 5.0
"""A connection that has been idle for longer is not used again: S3 may have closed it, and a function that was frozen
has not heard of it."""

LONGEST_PAUSE = 1.0
"""Seconds before the second attempt, at most."""

# By the beginning of a region's name; all others end in amazonaws.com. A test compares them with botocore's list.
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}
_PARTIAL, _ERRORS, _TOO_MANY, _SERVER_ERRORS = 206, 300, 429, 500
_TRANSIENT = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestThrottled"})
_REFUSED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})


class S3Error(Exception):
    """S3 refused a request, or answered something else than what was asked for.

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


class _Stale(Exception):  # noqa: N818 - not an error: nobody sees it
    """A connection that was used before turned out to be closed."""


class _Address(NamedTuple):
    """Where to connect to, and what the server is called in requests."""

    host: str
    port: int = 443
    secure: bool = True
    authority: str = ""

    @property
    def name(self) -> str:
        """The header `host`."""
        return self.authority or self.host


class LightObjects:
    """Reads and writes objects; thread-safe. See `objects.Objects`.

    The region, the endpoint and the credentials are those of the environment, as Lambda sets it: `AWS_REGION`,
    `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_USE_FIPS_ENDPOINT`, and what `CredentialSource` reads.

    Raises
    ------
    RetryableError
        If the environment names no region.
    """

    def __init__(self) -> None:
        self._region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not self._region:
            raise RetryableError("environment variable AWS_REGION is not set")
        self._endpoint = _configured_endpoint()
        self._credentials = CredentialSource()
        self._idle: deque[tuple[_Address, http.client.HTTPConnection, float]] = deque(maxlen=MAX_CONNECTIONS)
        self._tls: ssl.SSLContext | None = None

    def get(self, bucket: str, key: str) -> bytes:
        """Read the bytes of an object."""
        return self._try("read", "GET", bucket, key)

    def put(self, bucket: str, key: str, data: bytes | memoryview) -> None:
        """Write an object."""
        self._try("write", "PUT", bucket, key, body=memoryview(data).cast("B"))

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
        self._try("read", "GET", bucket, key, headers=headers, buffer=buffer, size=size)

    def forget(self) -> None:
        """Drop connections and credentials, as after a restore from a snapshot."""
        while self._idle:
            self._idle.pop()[1].close()
        self._credentials.forget()

    def _try(
        self,
        verb: str,
        method: str,
        bucket: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        buffer: memoryview | None = None,
        size: int = 0,
    ) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._request(method, bucket, key, headers or {}, body, buffer, size)
            except (S3Error, OSError, http.client.HTTPException) as error:
                if isinstance(error, S3Error):
                    text, again = str(error), error.transient
                    if error.code in _REFUSED:
                        self._credentials.forget()
                else:
                    text, again = f"{type(error).__name__}: {error}", True
                if attempt == ATTEMPTS or not again:
                    raise RetryableError(f"cannot {verb} s3://{bucket}/{key}: {text}") from error
            time.sleep(LONGEST_PAUSE * os.urandom(1)[0] / 255)
        raise AssertionError

    def _request(
        self,
        method: str,
        bucket: str,
        key: str,
        headers: Mapping[str, str],
        body: bytes | memoryview,
        buffer: memoryview | None,
        size: int,
    ) -> bytes:
        address, path = self._locate(bucket, key)
        signed = signed_headers(
            method,
            path,
            {**headers, "host": address.name},
            body,
            credentials=self._credentials.get(),
            region=self._region,
        )
        # The length is not signed: botocore does not either.
        sent = {**signed, "accept-encoding": "identity", "user-agent": "cdk-inference"}
        if method == "PUT":
            sent["content-length"] = str(len(body))
        while True:
            used = self._used(address)
            connection = used if used is not None else self._connected(address)
            try:
                response = _send(connection, method, path, body, sent, reused=used is not None)
                answer = _answer(response, buffer, size)
            except _Stale:
                connection.close()
                continue
            except S3Error:
                self._keep(address, connection, response)
                raise
            except BaseException:
                connection.close()
                raise
            self._keep(address, connection, response)
            return answer

    def _locate(self, bucket: str, key: str) -> tuple[_Address, str]:
        """Return where an object is: the host, and the path there."""
        name = quote(key, safe="/~")
        if self._endpoint is not None:
            address, prefix = self._endpoint
            return address, f"{prefix}/{quote(bucket, safe='~')}/{name}"
        suffix = next((s for start, s in _SUFFIXES.items() if self._region.startswith(start)), "amazonaws.com")
        service = "s3-fips" if os.environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true" else "s3"
        host = f"{service}.{self._region}.{suffix}"
        if "." in bucket:  # S3's certificate is for one name before the host
            return _Address(host), f"/{quote(bucket, safe='~')}/{name}"
        return _Address(f"{bucket}.{host}"), f"/{name}"

    def _used(self, address: _Address) -> http.client.HTTPConnection | None:
        """Return a connection that was used before and still seems to be open."""
        for _ in range(len(self._idle)):
            try:
                where, connection, since = self._idle.pop()
            except IndexError:  # another thread was quicker
                return None
            if where != address:
                self._idle.appendleft((where, connection, since))
            # By the clock on the wall: the other one stands still while the function is frozen.
            elif 0 <= time.time() - since < IDLE_SECONDS and _quiet(connection):
                return connection
            else:
                connection.close()
        return None

    def _connected(self, address: _Address) -> http.client.HTTPConnection:
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

    def _keep(
        self, address: _Address, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._idle.append((address, connection, time.time()))


def _configured_endpoint() -> tuple[_Address, str] | None:
    """Return the endpoint that the environment names, and what paths begin with there, or None on AWS itself."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not address:
        return None
    url = urlsplit(address)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise RetryableError(f"the endpoint of S3 is {address!r}, expected http://… or https://…")
    secure = url.scheme == "https"
    usual = 443 if secure else 80
    port = url.port or usual
    name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return _Address(url.hostname, port, secure, name if port == usual else f"{name}:{port}"), url.path.rstrip("/")


def _quiet(connection: http.client.HTTPConnection) -> bool:
    """Return whether nothing has arrived on an idle connection: what does arrive there is its end."""
    try:
        return not select.select([connection.sock], [], [], 0)[0]
    except (OSError, ValueError, TypeError):
        return False


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | memoryview,
    headers: dict[str, str],
    *,
    reused: bool,
) -> http.client.HTTPResponse:
    """Send a request and return the response, as far as its headers.

    Raises
    ------
    _Stale
        If a connection that was used before has been closed. Reading and writing whole objects may be done twice.
    """
    try:
        connection.request(method, path, body or None, headers)
        return connection.getresponse()
    except (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError) as error:
        if reused:
            raise _Stale from error
        raise


def _answer(response: http.client.HTTPResponse, buffer: memoryview | None, size: int) -> bytes:
    """Read what S3 answers: into the buffer, if there is one.

    Raises
    ------
    S3Error
        If S3 refuses, or answers something else than what was asked for.
    """
    if response.status >= _ERRORS:
        raise _error(response)
    if buffer is None:
        return response.read()
    found = response.headers.get("content-range", "")
    if response.status != _PARTIAL or not found.endswith(f"/{size}"):
        length = found.rpartition("/")[2] or response.headers.get("content-length")
        # Not read: `_keep` closes the connection, on which the rest still arrives.
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


def _error(response: http.client.HTTPResponse) -> S3Error:
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


def light_objects() -> LightObjects:
    """Return a light client; a `TensorStore` calls this when the first tensor comes by reference."""
    objects = LightObjects()
    before_snapshot(objects.forget)
    after_restore(objects.forget)
    return objects
