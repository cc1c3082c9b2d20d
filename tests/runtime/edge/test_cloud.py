"""Requests of a device to AWS, with refusals, a wrong clock and a slow network."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.edge.device import SURE, write_package
from tests.waiting import wait_until

from inference_runtime.edge.cloud import pace
from inference_runtime.edge.cloud.profile import DeviceCredentials
from inference_runtime.edge.cloud.uplink import Uplink, object_key
from inference_runtime.edge.package import Package
from inference_runtime.edge.settings import Settings
from inference_runtime.edge.storage.outbox import Answer, Outbox
from inference_runtime.edge.storage.records import Record
from inference_runtime.edge.storage.spool import Spool
from inference_runtime.edge.supervision import notify
from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SKEWED = (403, "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>")
DENIED = (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
THERE = (412, "<Error><Code>PreconditionFailed</Code></Error>")
LARGE = (400, "<Error><Code>EntityTooLarge</Code></Error>")
CONFLICT = (409, "<Error><Code>ConditionalRequestConflict</Code></Error>")
PORTAL = (511, "<html>Please log in</html>")
OK = (200, "")
CUT = (0, "")


class Service(ThreadingHTTPServer):
    """Answers requests by a list, and closes each connection afterwards without a word."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, str]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_PUT(self) -> None:
        status, text = self.server.answers.pop(0)
        body = self.rfile.read(int(self.headers["content-length"]) if status else 1)
        self.server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.close_connection = True
        if not status:
            return
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("etag", '"d"')
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    server = Service()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    given = {"DEVICE": "cam-1", "STATE_FOLDER": str(tmp_path / "state"), "WATCH_FOLDER": str(tmp_path / "watched")}
    keys = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s"}
    paces = {"RETRY_MS": "10", "MAX_RETRY_MS": "40", "INBOX_BUCKET": "inbox"}
    for name, value in {**given, **keys, **paces}.items():
        monkeypatch.setenv(name, value)
    return Settings.from_environment(Package.read(write_package(tmp_path / "package")))


class Tunnel(ThreadingHTTPServer):
    """A proxy that lets those through who say the password, to a server on this machine."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.port = port
        self.asked: list[tuple[str, str | None]] = []


class _Tunnel(BaseHTTPRequestHandler):
    server: Tunnel

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers["proxy-authorization"]))
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.server.port)) as far:
            back = threading.Thread(target=_copy, args=(far, self.connection, None))
            back.start()
            _copy(self.connection, far, self.rfile)
            back.join()

    def log_message(self, *_: object) -> None: ...


def _copy(source: socket.socket, target: socket.socket, buffered: Any) -> None:
    read = source.recv if buffered is None else buffered.read1
    with suppress(OSError):
        while piece := read(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


class Waiting:
    """Records that wait, and what sends them."""

    def __init__(self, settings: Settings) -> None:
        self.spool = Spool(settings.state / "spool")
        self.outbox = Outbox(settings.state, self.spool)
        self.outbox_counts: dict[str, int] = {}
        self.uplink = Uplink(settings, "1.0.0", self.outbox, self.spool, sent=lambda: None)

    def escalate(self, key: str, prediction: dict[str, Any], data: bytes = SURE) -> None:
        """Have an object wait."""
        digest = hashlib.sha256(data).hexdigest()
        self.outbox.take_message(data, size=len(data), key=key, digest=digest, event_time="2026-01-01")
        (record,) = self.outbox.waiting(1, 1)
        strings = {"status": "SUCCEEDED", "model_version": "m1", "recorded_at": "2026-01-01T00:00:00.000+00:00"}
        row = {**{name: {"S": text} for name, text in strings.items()}, "prediction": {"M": prediction}}
        text = json.dumps({"row": row, "clock": False})
        answer = Answer(record, text, {}, "escalated", "object", record.spool, record.spool_bytes, publish=False)
        self.outbox.answer([answer])

    def left(self) -> int:
        """Return how many objects wait."""
        return int(self.outbox.backlog()["objects"] or 0)


@contextmanager
def sending(waiting: Waiting) -> Iterator[None]:
    waiting.uplink.start()
    try:
        yield
    finally:
        waiting.uplink.stop(10)
        waiting.outbox_counts = waiting.outbox.counts()
        waiting.outbox.close()


def test_a_wrong_clock_and_a_network_that_lies_are_waited_out(
    settings: Settings, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.answers = [SKEWED, SKEWED, CUT, PORTAL, CONFLICT, OK, THERE]
    waiting = Waiting(settings)
    large = SURE * 1_000_000
    waiting.escalate("a.png", {"label": {"S": "7"}, "raw": {"B": "AAE="}, "n": {"N": "1E-7"}}, large)
    waiting.escalate("b.png", {"label": {"S": "x" * 3_000}})
    with sending(waiting):
        wait_until(lambda: not waiting.left())
    assert [path for path, _, _ in service.requests[5:]] == [
        f"/inbox/edge/cam-1/{hashlib.sha256(data).hexdigest()[:32]}/{key}"
        for key, data in (("a.png", large), ("b.png", SURE))
    ]
    _, headers, body = service.requests[5]
    assert (headers["if-none-match"], body == large) == ("*", True)
    assert headers["x-amz-meta-edge-clock"] == "not set"
    assert json.loads(headers["x-amz-meta-edge-answer"])["prediction"] == {"label": "7", "raw": "AAE=", "n": 1e-7}
    assert "x-amz-meta-edge-answer" not in service.requests[6][1]
    assert service.requests[6][1]["x-amz-meta-edge-answer-left-out"] == "3048 bytes"
    said = [record.getMessage() for record in caplog.records if "cannot be sent now" in record.getMessage()]
    assert said[0].startswith("objects cannot be sent now: RequestTimeTooSkewed: ")
    assert len(said) == 4
    assert not list((settings.state / "spool").iterdir())


def test_objects_go_through_a_proxy_to_a_host_that_the_device_trusts(
    settings: Settings, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("s3.example").configure_cert(context)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    service.answers = [OK]
    tunnel = Tunnel(service.server_port)
    threading.Thread(target=tunnel.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{tunnel.server_port}")
    waiting = Waiting(settings)
    waiting.escalate("a.png", {})
    with sending(waiting):
        wait_until(lambda: not waiting.left(), lambda: waiting.uplink.failing)
    tunnel.shutdown()
    tunnel.server_close()
    assert tunnel.asked == [("s3.example:443", "Basic bWU6cEBzcw==")]
    assert service.requests[0][1]["host"] == "s3.example"


def test_what_aws_never_takes_is_set_aside_and_what_somebody_must_mend_is_not_hurried(
    settings: Settings, service: Service
) -> None:
    service.answers = [OK, LARGE, DENIED, OK, DENIED, DENIED, DENIED]
    waiting = Waiting(replace(settings, max_retry_ms=600_000))
    for key in ("good.png", "large.png", "denied.png", "others.png", "all.png", "are.png", "denied.png"):
        waiting.escalate(key, {})
    with sending(waiting):
        wait_until(lambda: len(service.requests) == 7 and waiting.uplink._backoff["object"].left() > 5)
        assert waiting.left() == 4
        assert waiting.uplink.failing["object"].startswith("AccessDenied")
        waiting.uplink.wake()
    assert len(service.requests) == 7
    assert (waiting.outbox_counts["sent"], waiting.outbox_counts["failed"]) == (2, 1)
    (kept,) = (path for path in (settings.state / "failed").iterdir() if path.suffix == ".json")
    assert json.loads(kept.read_text())["key"] == "large.png"
    assert len(list((settings.state / "failed").iterdir())) == 2


@pytest.mark.parametrize(("bucket", "reason"), [("inbox", "EntityTooLarge"), (None, "INBOX_BUCKET is not set")])
def test_nothing_is_set_aside_for_a_wrong_setting(
    settings: Settings, service: Service, bucket: str | None, reason: str
) -> None:
    service.answers = [LARGE] * 9
    waiting = Waiting(replace(settings, bucket=bucket))
    waiting.escalate("first.png", {})
    with sending(waiting):
        wait_until(lambda: reason in waiting.uplink.failing.get("object", ""))
        assert waiting.left() == 1
    assert not (settings.state / "failed").exists()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1200))
def test_keys_fit_s3_and_keep_the_suffix(path: str) -> None:
    record = Record(1, "folder", f"{path}.png", "d" * 64, 1, "")
    key = object_key("edge/cam-1/", record)
    assert key.startswith(f"edge/cam-1/{'d' * 32}/")
    assert key.endswith(".png")
    assert len(key.encode()) <= 1_024


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.001, 10), st.floats(10, 1_000))
def test_pauses_grow_up_to_their_limit_and_differ(least: list[float], first: float, most: float) -> None:
    backoff = pace.Backoff(first, most)
    limits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: 1_000.0))  # half a millisecond is soon over
        for number, seconds in enumerate(least):
            limit = min(most, max(first * 2**number, seconds))
            assert limit / 2 <= backoff.fail(least_seconds=seconds) <= limit
            limits.append(limit)
        assert 0 < backoff.left() <= limits[-1] + 1e-9
    backoff.succeed()
    assert backoff.left() == 0


def test_the_rate_is_bounded_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    bound = pace.Pace(1_000, wait)
    for size in (10, 3_000, 1, 500, 500, 4_000):
        bound(size)
    waited = (10 + 3_000 + 1 + 500 + 500) / 1_000 - pace._BURST_SECONDS
    assert now - 1_000 == pytest.approx(waited)
    now += 3_600
    before = now
    bound(1)
    assert now == before


def profile(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (folder / "config").write_text(text)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "absent"))


def test_credentials_of_a_process_are_kept_until_they_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s", "SessionToken": "t"}
    (tmp_path / "told").write_text(json.dumps({**told, "Expiration": "2999-01-01T00:00:00Z"}))
    command = (
        f"{sys.executable} -c \"print(open(r'{tmp_path}/told').read()); open(r'{tmp_path}/calls', 'a').write('.')\""
    )
    profile(tmp_path, monkeypatch, f"[default]\nregion = x\n[profile edge]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_PROFILE", "edge")
    source = DeviceCredentials()
    assert [tuple(source.get()) for _ in range(2)] == [("AKIA", "s", "t")] * 2
    assert (tmp_path / "calls").read_text() == "."
    source.reset()
    (tmp_path / "told").write_text(json.dumps({**told, "Expiration": "2001-01-01T00:00:00Z"}))
    assert [source.get().key_id for _ in range(2)] == ["AKIA"] * 2
    assert (tmp_path / "calls").read_text() == "..."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no AWS credentials: the environment has neither"),
        ("nonsense", "cannot read the profiles of"),
        (
            "[default]\ncredential_process = /absent/secret",
            "credential_process must print credentials, got FileNotFound",
        ),
        ("[default]\ncredential_process = false secret", "must succeed, got CalledProcessError"),
        ("[default]\ncredential_process = echo 1", "must print credentials, got AttributeError"),
        ("[default]\ncredential_process = echo {}", "must print version 1, got None"),
    ],
)
def test_wrong_profiles_are_told_without_their_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    profile(tmp_path, monkeypatch, text)
    with pytest.raises(RetryableError, match=message) as error:
        DeviceCredentials().get()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "@"])
def test_systemd_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    address = str(tmp_path / "notify") if not prefix else f"@edge-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{address[1:]}" if prefix else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
        assert receiver.recv(100) == b"READY=1"
    notify("WATCHDOG=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("WATCHDOG=1")
