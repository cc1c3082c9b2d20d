"""Asks Lambda for events and answers them in parts: a client of the Runtime API.

Lambda's own client for Python sends an answer as a whole. A response that is streamed is a body in chunks, whose
trailer says whether it failed (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, and
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming).
"""

from __future__ import annotations

import base64
import json
import os
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from http.client import HTTPResponse

HTTP_RESPONSE = "application/vnd.awslambda.http-integration-response"
"""The type of a response that begins with its status and headers as JSON, and eight bytes of zero."""

_PREFIX = "/2018-06-01/runtime"
_SEPARATOR = bytes(8)
_ERROR_TYPE, _ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"
_LEAST_ERROR = 400


class RuntimeApiError(Exception):
    """Lambda does not take what was sent, or closed the connection."""


class Invocation:
    """An event, and the context that Lambda gives handlers besides.

    Attributes
    ----------
    aws_request_id
        The id of the invocation.
    event
        The event.
    """

    def __init__(self, headers: Message, event: Any) -> None:  # noqa: ANN401 - any JSON value
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.event = event
        self._deadline = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the process."""
        return max(0, self._deadline - int(time.time() * 1000))


class RuntimeApi:
    """The Runtime API of the environment that this process is in.

    Parameters
    ----------
    address
        Host and port, as `AWS_LAMBDA_RUNTIME_API` has them.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def next_invocation(self) -> Invocation:
        """Wait for an event, for as long as need be.

        Raises
        ------
        RuntimeApiError
            If there is none.
        """
        response, data = self._request("GET", "/invocation/next")
        headers = response.headers
        os.environ["_X_AMZN_TRACE_ID"] = headers.get("Lambda-Runtime-Trace-Id", "")
        return Invocation(headers, json.loads(data))

    def respond(self, invocation: Invocation, answer: object) -> None:
        """Send an answer as a whole.

        Raises
        ------
        RuntimeApiError
            If Lambda does not take it.
        """
        self._request("POST", f"/invocation/{invocation.aws_request_id}/response", json.dumps(answer).encode())

    def stream(self, invocation: Invocation, status: int, headers: Mapping[str, str]) -> ResponseStream:
        """Begin a response of HTTP that is sent in parts.

        Raises
        ------
        RuntimeApiError
            If the connection is broken.
        """
        prelude = json.dumps({"statusCode": status, "headers": dict(headers)}).encode()
        path = f"{_PREFIX}/invocation/{invocation.aws_request_id}/response"
        return ResponseStream(HTTPConnection(self._address), path, prelude + _SEPARATOR)

    def fail(self, invocation: Invocation, error: BaseException) -> None:
        """Answer that an invocation failed before there was any part of a response.

        Raises
        ------
        RuntimeApiError
            If Lambda does not take it.
        """
        self._fail(f"/invocation/{invocation.aws_request_id}/error", error)

    def fail_initialization(self, error: BaseException) -> None:
        """Say that this process cannot answer events at all.

        Raises
        ------
        RuntimeApiError
            If Lambda does not take it.
        """
        self._fail("/init/error", error)

    def wait_for_restore(self) -> None:
        """Let Lambda take its snapshot, and return in an environment that begins with it.

        Raises
        ------
        RuntimeApiError
            If there is none.
        """
        self._request("GET", "/restore/next")

    def _fail(self, path: str, error: BaseException) -> None:
        self._request("POST", path, _described(error), {_ERROR_TYPE: type(error).__name__})

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self._address)
        try:
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, _PREFIX + path, body, {**kind, **(headers or {})})
            response = connection.getresponse()
            data = response.read()
        except OSError as error:
            raise RuntimeApiError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status >= _LEAST_ERROR:
            raise RuntimeApiError(f"{method} {path}: {response.status} {data[:200]!r}")
        return response, data


class ResponseStream:
    """A response that is sent as it is made. Whoever begins it must call `end` or `fail`.

    Parameters
    ----------
    connection
        Not connected yet.
    path
        Where it goes.
    first
        The first bytes.

    Raises
    ------
    RuntimeApiError
        If the connection is broken.
    """

    def __init__(self, connection: HTTPConnection, path: str, first: bytes) -> None:
        self._connection = connection
        try:
            connection.putrequest("POST", path)
            connection.putheader("Content-Type", HTTP_RESPONSE)
            connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.putheader("Trailer", f"{_ERROR_TYPE}, {_ERROR_BODY}")
            connection.endheaders()
        except OSError as error:
            raise self._broken(error) from error
        self.write(first)

    def write(self, data: bytes) -> None:
        """Send some bytes.

        Raises
        ------
        RuntimeApiError
            If the connection is broken, as when nobody waits for the rest.
        """
        if data:  # an empty chunk would end the response
            self._send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        """Send that this was all.

        Raises
        ------
        RuntimeApiError
            If Lambda does not take it.
        """
        self._finish(b"")

    def fail(self, error: BaseException) -> None:
        """Send that the rest is missing, so that the invocation counts as an error.

        Raises
        ------
        RuntimeApiError
            If Lambda does not take it.
        """
        body = base64.b64encode(_described(error)).decode()
        self._finish(f"{_ERROR_TYPE}: {type(error).__name__}\r\n{_ERROR_BODY}: {body}\r\n".encode())

    def _finish(self, trailer: bytes) -> None:
        self._send(b"0\r\n" + trailer + b"\r\n")
        try:
            response = self._connection.getresponse()
            data = response.read()
        except OSError as error:
            raise self._broken(error) from error
        self._connection.close()
        if response.status >= _LEAST_ERROR:
            raise RuntimeApiError(f"the response was not taken: {response.status} {data[:200]!r}")

    def _send(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> RuntimeApiError:
        self._connection.close()
        return RuntimeApiError(f"the response was broken off: {error}")


def _described(error: BaseException) -> bytes:
    return json.dumps({"errorType": type(error).__name__, "errorMessage": reason_of(error), "stackTrace": []}).encode()
