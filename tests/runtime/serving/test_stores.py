"""Objects of Azure, by Microsoft's own emulator, and of Google, by a server that answers as its documentation says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cloudevents.core.bindings import http
from obstore.store import AzureStore
from tests.runtime.serving import events
from tests.waiting import wait_until
from verify.tools import Tools, UnavailableError

from inference_runtime.anywhere.objects import ObstoreSource, open_objects
from inference_runtime.errors import RejectItem
from inference_runtime.serving.cloud_events import MalformedEventError, read_events
from inference_runtime.serving.messages import message_of
from inference_runtime.stages.item import Item
from inference_runtime.stages.sources import Content, SupersededError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudevents.core.v1.event import CloudEvent

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # documented
_LISTENS = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")
MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"


def item(event: CloudEvent) -> Item:
    sent = http.to_structured_event(event)
    [found], _ = read_events({name.lower(): value for name, value in sent.headers.items()}, sent.body)
    assert not isinstance(found, MalformedEventError)
    message = message_of(found, "m", ["inbox"])
    assert message is not None
    return Item.from_message(message)


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """The URL of an account with a container."""
    try:
        program = Tools().package("azurite") / "dist" / "src" / "blob" / "main.js"
    except UnavailableError as error:
        pytest.skip(str(error))
    log = folder / "azurite.log"
    options = ["--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"]
    node = Path(sys.executable).with_name("node")
    with log.open("w") as output:
        process = subprocess.Popen(
            [node, program, *options], stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    try:
        wait_until(lambda: _LISTENS.search(log.read_text()) or process.poll() is not None, log.read_text, every=0.05)
        listens = _LISTENS.search(log.read_text())
        assert listens is not None, log.read_text()
        port = int(listens[1])
        connection = HTTPConnection("127.0.0.1", port)
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        told = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/inbox\nrestype:container"
        made = hmac.new(base64.b64decode(KEY), f"PUT{chr(10) * 12}{told}".encode(), hashlib.sha256).digest()
        signed = f"SharedKey {ACCOUNT}:{base64.b64encode(made).decode()}"
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "authorization": signed}
        connection.request("PUT", f"/{ACCOUNT}/inbox?restype=container", headers=headers)
        assert connection.getresponse().status == 201
        connection.close()
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # `node` may be a program that starts Node
        process.wait()


def test_blobs_of_azure_are_read_in_the_version_of_their_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with azurite(tmp_path) as endpoint:
        for name, value in {"ACCOUNT_NAME": ACCOUNT, "ACCOUNT_KEY": KEY, "ENDPOINT": endpoint}.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
        store = AzureStore("inbox", client_options={"allow_http": True})
        store.put("a b/é.txt", b"one", attributes={"explain": "true"})
        etag = (store.head("a b/é.txt")["e_tag"] or "").strip('"')
        source = open_objects("az", ["inbox"])
        first = item(events.azure("inbox", "a b/é.txt", 3, etag))
        assert source.read(first) == Content(b"one", asked=True)
        store.put("a b/é.txt", b"two")
        with pytest.raises(SupersededError):
            source.read(first)
        store.delete("a b/é.txt")
        with pytest.raises(RejectItem, match="no longer exists"):
            source.read(first)
    with pytest.raises(UnreadableError):
        source.read(first)


class _Google(ThreadingHTTPServer):
    """Answers as the XML interface of Google Cloud Storage: https://cloud.google.com/storage/docs/xml-api/get-object."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.status: int | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Google

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        address = urlsplit(self.path)
        generation, data = self.server.objects.get(unquote(address.path), ("", b""))
        wanted = parse_qs(address.query).get("generation", [generation])
        status = self.server.status or (200 if generation and wanted == [generation] else 404)
        data = data if status == 200 else b""
        self.send_response(status)
        for name, value in {
            "content-length": str(len(data)),
            "etag": '"of XML, and not of JSON"',
            "last-modified": MODIFIED,
            "x-goog-generation": generation,
            "x-goog-meta-explain": "true",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        return data

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Google]:
    with _Google() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        account = {"gcs_base_url": f"http://127.0.0.1:{server.server_port}", "disable_oauth": True}
        unused = {"client_email": "", "private_key": "", "private_key_id": ""}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({**account, **unused}))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield server
        server.shutdown()
        thread.join()


def test_objects_of_google_are_read_in_the_generation_of_their_event(google: _Google) -> None:
    source = open_objects("gs", ["inbox"])
    first = item(events.google("inbox", "a b/é.txt", 3, generation=7))
    google.objects["/inbox/a b/é.txt"] = ("7", b"one")
    assert source.read(first) == Content(b"one", asked=True)
    google.objects["/inbox/a b/é.txt"] = ("8", b"two")
    with pytest.raises(SupersededError):
        source.read(first)
    google.objects.clear()
    with pytest.raises(RejectItem, match="no longer exists"):
        source.read(first)
    google.status = 403
    with pytest.raises(UnreadableError):
        source.read(first)


def test_a_bucket_that_is_not_configured_is_never_read() -> None:
    with pytest.raises(RejectItem, match="bucket inbox is not one of those that are read"):
        ObstoreSource("gs", {}).read(item(events.google("inbox", "a", 1)))
