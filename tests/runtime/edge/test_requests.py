"""Requests of a device whose network is slow, lies, or ends before it has heard an answer."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from inference_runtime.edge.cloud import requests
from inference_runtime.edge.cloud.profile import DeviceCredentials
from inference_runtime.edge.cloud.requests import BUFFER_BYTES, AwsError, AwsRequests
from inference_runtime.errors import RetryableError
from inference_runtime.s3.credentials import REFRESH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGE = memoryview(bytes(8 * 1024**2))
"""More than the network takes before anybody reads it."""

DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
REPLACED = "<Error><Code>InvalidAccessKeyId</Code></Error>"


def answer(status: int, text: str = "", *headers: str) -> bytes:
    """Return an answer of HTTP."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(text)}", *headers]
    return "\r\n".join([*lines, "", text]).encode()


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    write_keys(tmp_path, "AKIAFIRST")


def write_keys(folder: Path, key_id: str) -> None:
    (folder / "config").write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = s\n")


@contextmanager
def server(monkeypatch: pytest.MonkeyPatch, *conversations: Callable[[socket.socket], None]) -> Iterator[None]:
    """Stand for S3: talk to one connection after the other."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")

        def talk() -> None:
            for converse in conversations:
                with listener.accept()[0] as connection:
                    converse(connection)

        thread = threading.Thread(target=talk)
        thread.start()
        yield
        thread.join()


def head_of(connection: socket.socket) -> bytes:
    """Return a request up to its body, of which not more than the begin is read."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1024)
    return head


def saying(text: bytes, heads: list[bytes]) -> Callable[[socket.socket], None]:
    """Answer a request as soon as it says what it wants, and close."""

    def converse(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(text)

    return converse


def put(body: memoryview = LARGE) -> None:
    AwsRequests().put_object("inbox", "a.png", body, {})


def test_a_refusal_is_heard_although_the_object_was_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(monkeypatch, saying(answer(403, DENIED), [])), pytest.raises(AwsError, match="AccessDenied") as error:
        put()
    assert not error.value.transient


def test_a_portal_that_answers_for_s3_has_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    portal = saying(answer(200, "<html>Please log in</html>"), [])
    with server(monkeypatch, portal), pytest.raises(http.client.HTTPException, match="must answer with an ETag"):
        put(memoryview(b"1"))


def test_a_key_that_was_replaced_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    answers = answer(403, REPLACED), answer(200, "", 'etag: "d"')
    with server(monkeypatch, *(saying(each, heads) for each in answers)):
        sender = AwsRequests()
        with pytest.raises(AwsError, match="InvalidAccessKeyId") as error:
            sender.put_object("inbox", "a.png", memoryview(b"1"), {})
        write_keys(tmp_path, "AKIASECOND")
        sender.put_object("inbox", "a.png", memoryview(b"1"), {})
    assert error.value.transient
    assert [b"AKIAFIRST" in head for head in heads] == [True, False]
    assert b"AKIASECOND" in heads[1]


def test_little_is_on_its_way_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "SECONDS", 0.3)
    received = 0
    given_up = threading.Event()

    def converse(connection: socket.socket) -> None:
        nonlocal received
        given_up.wait()
        while piece := connection.recv(65_536):
            received += len(piece)

    with server(monkeypatch, converse):
        with pytest.raises(TimeoutError):
            put()
        given_up.set()
    assert 0 < received < 4 * BUFFER_BYTES


def test_credentials_are_used_as_long_as_they_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expire(seconds: float) -> None:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        told = {"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s", "Expiration": until.isoformat()}
        (tmp_path / "told").write_text(json.dumps(told))

    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'told'}\n")
    expire(REFRESH_SECONDS / 2)
    source = DeviceCredentials()
    first = source.get()
    (tmp_path / "told").unlink()
    assert source.get() == first
    monkeypatch.setattr("time.time", lambda: datetime.now(UTC).timestamp() + REFRESH_SECONDS)
    with pytest.raises(RetryableError, match="must succeed"):
        source.get()
