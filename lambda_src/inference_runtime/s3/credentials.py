"""Credentials of a function: from its environment, or from the endpoint that a container has for them."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit

from inference_runtime.errors import RetryableError
from inference_runtime.timeouts import ATTEMPTS, CONNECT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

REFRESH_SECONDS = 300
"""Seconds before they expire that credentials are replaced."""

_RELATIVE_HOST = "http://169.254.170.2"
# Where credentials may come from without TLS, as in AWS's own clients: this machine, ECS and EKS.
_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_OK = 200


class Credentials(NamedTuple):
    """The identity that signs a request; `token` is empty for a user's own key."""

    key_id: str
    secret: str
    token: str

    def __repr__(self) -> str:
        """Return the key's id alone: the rest belongs in no log."""
        return f"Credentials({self.key_id!r})"


class KeptCredentials:
    """Keeps credentials that expire until shortly before; thread-safe.

    Parameters
    ----------
    ask
        Returns new ones, and when they expire in seconds since 1970.
    """

    def __init__(self, ask: Callable[[], tuple[Credentials, float]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._cached: Credentials | None = None
        self._expires = 0.0

    def get(self) -> Credentials:
        """Return the credentials that are valid now. The old ones serve to their end if new ones do not come.

        Raises
        ------
        RetryableError
            If there are none.
        """
        with self._lock:
            cached, left = self._cached, self._expires - time.time()
            if cached is not None and left > REFRESH_SECONDS:
                return cached
            try:
                self._cached, self._expires = self._ask()
            except RetryableError:
                if cached is None or left <= 0:
                    raise
                return cached
            return self._cached

    def reset(self) -> None:
        """Ask for others at the next request."""
        with self._lock:
            self._cached = None


class CredentialSource:
    """Finds credentials, and keeps those that expire until shortly before; thread-safe.

    Lambda puts them into the environment, where they are valid for as long as the environment lives. A function that is
    restored from a snapshot, and a container of SageMaker, ask an endpoint for them.
    """

    def __init__(self) -> None:
        self._kept = KeptCredentials(_from_endpoint)

    def get(self) -> Credentials:
        """Return the credentials that are valid now.

        Raises
        ------
        RetryableError
            If there are none, or the endpoint does not give them.
        """
        key_id, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret:
            return Credentials(
                _header_value(key_id, "AWS_ACCESS_KEY_ID"),
                _header_value(secret, "AWS_SECRET_ACCESS_KEY"),
                _header_value(os.environ.get("AWS_SESSION_TOKEN", ""), "AWS_SESSION_TOKEN"),
            )
        return self._kept.get()

    def reset(self) -> None:
        """Ask for others at the next request: S3 has refused these, or they come from a snapshot."""
        self._kept.reset()


def _from_endpoint() -> tuple[Credentials, float]:
    """Return credentials, and when they expire in seconds since 1970."""
    if path := os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        address = _RELATIVE_HOST + path
    elif not (address := os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")):
        raise RetryableError(
            "no AWS credentials: neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor"
            " AWS_CONTAINER_CREDENTIALS_FULL_URI are set"
        )
    try:
        url = urlsplit(address)
    except ValueError as error:
        raise RetryableError(f"AWS_CONTAINER_CREDENTIALS_FULL_URI is no address: {error}") from error
    if url.scheme != "https" and url.hostname not in _HOSTS:
        raise RetryableError(
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI is on {url.hostname!r}, which is neither this machine nor has TLS"
        )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _request(url)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if attempt == ATTEMPTS:
                raise RetryableError(f"{address} gives no credentials: {type(error).__name__}: {error}") from error
    raise AssertionError


def _request(url: SplitResult) -> tuple[Credentials, float]:
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=CONNECT_TIMEOUT)
    token = _authorization()
    try:
        path = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
        connection.request("GET", path, headers={"Authorization": token} if token else {})
        response = connection.getresponse()
        answer = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status != _OK:
        raise OSError(f"status {response.status}")
    found = json.loads(answer)
    expire = datetime.fromisoformat(found["Expiration"]).timestamp()
    values = (
        _header_value(found[name], f"{name} of the endpoint for credentials")
        for name in ("AccessKeyId", "SecretAccessKey", "Token")
    )
    return Credentials(*values), expire


def _authorization() -> str:
    if path := os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - without importing pathlib
            return _header_value(file.read().strip(), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    return _header_value(
        os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "").strip(), "AWS_CONTAINER_AUTHORIZATION_TOKEN"
    )


def _header_value(value: object, name: str) -> str:
    """Return what can be sent in a header: the error of who tries to send it otherwise would show the secret."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise RetryableError(f"{name} must be a single line of printable ASCII")
    return value
