"""The console answers its own page alone, with the token and under its own name; the page loads nothing else."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.waiting import PATIENCE

from cdk_inference.local import LocalError
from cdk_inference.local.console.server import Console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.local import Cloud


def nothing() -> Cloud:
    raise LocalError("nothing is deployed")


class Caller:
    """Sends requests as whoever it likes."""

    def __init__(self, console: Console) -> None:
        found = urlsplit(console.url)
        self.port = found.port
        self.host = found.netloc
        self.token = found.query.partition("=")[2]
        self.cookie = f"cdk-inference-console-{self.port}={self.token}"
        self.own = {"Host": self.host, "Cookie": self.cookie, "Origin": f"http://{self.host}"}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with Console(nothing) as console:
        yield Caller(console)


def test_the_token_becomes_a_cookie_that_no_script_reads(caller: Caller) -> None:
    answer = caller.ask("GET", f"/?token={caller.token}", Host=caller.host)
    assert (answer.status, answer.getheader("location")) == (303, "/")
    cookie = answer.getheader("set-cookie")
    assert cookie.startswith(f"{caller.cookie};")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    page = caller.ask("GET", "/", **caller.own)
    assert page.status == 200
    assert caller.token.encode() not in page.body


@pytest.mark.parametrize("path", ["/", "/page/console.js", "/events", "/api/rows", "/object?key=a", "/nowhere"])
def test_nothing_is_shown_without_the_token(caller: Caller, path: str) -> None:
    for cookie in ("", f"cdk-inference-console-{caller.port}=", f"{caller.cookie}x", f"other={caller.token}"):
        answer = caller.ask("GET", path, Host=caller.host, Cookie=cookie)
        assert answer.status == 403
        assert b"token" in answer.body
    assert caller.ask("GET", "/?token=wrong", Host=caller.host).status == 403
    assert caller.ask("POST", f"/?token={caller.token}", b"", Host=caller.host).status == 403


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "[::1]:{port}", ""]
)
def test_another_name_for_this_machine_is_refused(caller: Caller, name: str) -> None:
    host = name.format(port=caller.port)
    for path in (f"/?token={caller.token}", "/", "/api/rows"):
        assert caller.ask("GET", path, **{**caller.own, "Host": host}).status == 403


@pytest.mark.parametrize("path", ["/api/upload?name=a", "/api/redrive", "/api/score-again"])
def test_what_changes_something_must_come_from_the_page(caller: Caller, path: str) -> None:
    body = json.dumps({"all": True}).encode()
    for origin in ("http://evil.example", f"https://{caller.host}", "http://localhost:1", "null"):
        assert caller.ask("POST", path, body, **{**caller.own, "Origin": origin}).status == 403
    without = {name: value for name, value in caller.own.items() if name != "Origin"}
    assert caller.ask("POST", path, body, **without).status == 403
    assert caller.ask("POST", path, body, **caller.own, Sec_Fetch_Site="cross-site").status == 403
    assert caller.ask("GET", path, **caller.own).status == 405
    answer = caller.ask("POST", path, body, **caller.own)
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "nothing is deployed"})


def test_the_page_runs_its_own_code_and_nothing_else(caller: Caller) -> None:
    for path in ("/", "/page/console.js", "/nowhere"):
        answer = caller.ask("GET", path, **caller.own)
        policy = dict(part.strip().split(" ", 1) for part in answer.getheader("content-security-policy").split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in answer.getheader("content-security-policy")
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert answer.getheader("referrer-policy") == "no-referrer"
        assert answer.getheader("cache-control") == "no-store"
        assert answer.getheader("server") is None


@pytest.mark.parametrize("name", ["..%2Fserver.py", "%2e%2e%2f..%2f..%2fcli.py", "nothing.js", "%2Fetc%2Fpasswd"])
def test_only_files_of_the_page_are_served(caller: Caller, name: str) -> None:
    assert caller.ask("GET", f"/page/{name}", **caller.own).status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/redrive", b"{"),
        ("/api/redrive", b"[]"),
        ("/api/redrive", b'{"ids": "all"}'),
        ("/api/score-again", b"[" * 100_000),
        ("/api/score-again", b" " * (2**20 + 1)),
        ("/api/upload", b"no name"),
    ],
)
def test_nonsense_is_refused_with_a_reason(caller: Caller, path: str, body: bytes) -> None:
    answer = caller.ask("POST", path, body, **caller.own)
    assert answer.status == 400
    assert " must " in json.loads(answer.body)["error"]


def test_a_websocket_is_closed(caller: Caller) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    assert caller.ask("GET", "/events", **caller.own, **upgrade, **key).status == 403


def test_it_listens_on_the_loopback_interface_alone(caller: Caller) -> None:
    with pytest.raises(ConnectionRefusedError):  # this is what a listener on all addresses would accept
        socket.create_connection(("127.0.0.2", caller.port), timeout=5)


def test_a_port_that_is_taken_is_named(caller: Caller) -> None:
    with (
        pytest.raises(LocalError, match=f"port must be free, got {caller.port}"),
        Console(nothing, port=caller.port),
    ):
        pass
