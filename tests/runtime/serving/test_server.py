"""The server as a process: the rows of the pipeline, and statuses that tell brokers what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cloudevents.core.bindings import http
from obstore.store import LocalStore
from tests.runtime.serving import events
from tests.runtime.serving.process import SOURCES, started
from tests.runtime.stages.mean import BODIES, USER_CODE, code, score
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Inbox

__all__ = ["code", "score"]  # fixtures

STATUSES = {
    "good": 204,
    "also good": 204,
    "of another shape": 204,
    "refused before": 422,
    "refused after": 422,
    "a bug before": 500,
    "a bug after": 500,
    "a bug of types": 500,
    "not a number": 422,
    "infinite mean": 422,
    "infinite prediction": 422,
    "no rank": 422,
    "empty": 422,
}

WAITING = """
    def preprocess(data, item):
        import numpy as np
        order, _, folder = data.decode().partition(" ")
        if order == "wait":
            open(folder + "/begun", "w").close()  # until somebody reads
            open(folder + "/go").close()  # until somebody writes
        return np.array([1, 2], np.float32)

    def postprocess(outputs, item):
        print("user code prints")
        return {"mean": outputs["mean"]}
"""

SLOW = USER_CODE.replace(
    "def preprocess(data, item):",
    """def preprocess(data, item):
        import ctypes
        import time
        if data == b"slow":
            time.sleep(3600)
        if data == b"uninterruptible":
            ctypes.PyDLL(None).usleep(1_200_000)  # keeps Python's lock""",
)


def rows(table: str) -> dict[str, dict[str, Any]]:
    found: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
    others = {"recorded_at", "inference"}  # a batch says "none" if nothing of it is scored
    return {row["key"]: {name: value for name, value in row.items() if name not in others} for row in found}


def empty(table: str) -> None:
    for row in boto3.resource("dynamodb").Table(table).scan()["Items"]:
        boto3.resource("dynamodb").Table(table).delete_item(Key={n: row[n] for n in ("object", "version")})


def test_rows_of_objects_in_s3_are_those_of_the_pipeline_and_first_answers_win(
    score: Any, inbox: Inbox, table: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    messages = {key: inbox.put(key, body) for key, body in BODIES.items()}
    gone, old = inbox.message("gone"), inbox.put("overwritten", b"[1]")
    newer = inbox.put("overwritten", b"[2]")
    everything = [*messages.values(), gone, old, newer]
    score(everything)
    expected = rows(table)
    empty(table)
    bucket = messages["good"]["detail"]["bucket"]["name"]
    stores = {"OBJECT_STORE": "s3", "OBJECT_BUCKETS": bucket, "AWS_ALLOW_HTTP": "true"}
    with started(tmp_path, **stores) as server:
        modes = [http.to_binary_event, http.to_structured_event, events.batch]
        statuses = {
            key: server.send(modes[number % 3](events.eventbridge(message))).status
            for number, (key, message) in enumerate(messages.items())
        }
        assert statuses == STATUSES
        assert server.send(http.to_binary_event(events.eventbridge(gone))).status == 422
        together = server.send(events.batch(events.eventbridge(old), events.eventbridge(newer)))
        assert (together.status, together.body) == (204, b"")
        assert rows(table) == expected

        before = boto3.resource("dynamodb").Table(table).scan()["Items"]
        again = [server.send(http.to_binary_event(events.eventbridge(messages[key]))).status for key in STATUSES]
        assert again == list(STATUSES.values())
        assert boto3.resource("dynamodb").Table(table).scan()["Items"] == before

        mixed = events.batch(*(events.eventbridge(messages[key]) for key in ("good", "refused before", "a bug before")))
        answer = server.send(mixed)
        assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
        told = events.parsed(answer)
        assert "as it was told" in told["detail"]
        assert [(each["index"], each["status"]) for each in told["events"]] == [(1, 422), (2, 500)]
        # A broker that gives up on a batch gives up on all of it: the others are scored.
        boto3.resource("dynamodb").Table(table).delete_item(Key={n: before[0][n] for n in ("object", "version")})
        lost = next(message for message in messages.values() if before[0]["key"] == message["detail"]["object"]["key"])
        elsewhere = events.google("elsewhere", "a", 1)
        for sent in (http.to_binary_event(elsewhere), events.batch(elsewhere, events.eventbridge(lost))):
            wrong = server.send(sent)
            assert (wrong.status, bucket in events.parsed(wrong)["detail"]) == (400, True)
        assert rows(table) == expected
        # The store's size counts, and an object is read only if the event tells the truth.
        lie = {**messages["good"]["detail"], "object": {**messages["good"]["detail"]["object"], "size": 1}}
        told = server.send(http.to_binary_event(events.eventbridge({**messages["good"], "detail": lie})))
        assert (told.status, "its event says 1" in events.parsed(told)["detail"]) == (422, True)
        no_size = {**lie, "object": {**lie["object"], "size": "many"}}
        malformed = server.send(http.to_binary_event(events.eventbridge({**messages["good"], "detail": no_size})))
        assert (malformed.status, "object.size" in events.parsed(malformed)["detail"]) == (400, True)
        assert server.terminate() == 0


def test_data_and_files_are_scored_and_rows_are_lines_of_json(code: Any, environment: Any, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "in box"
    folder.mkdir(parents=True)
    store = LocalStore(folder)
    store.put("a/b.json", b"[1, 2, 3]")
    etag = store.head("a/b.json")["e_tag"] or ""
    lines = tmp_path / "rows.jsonl"
    variables = {
        "OBJECT_STORE": (tmp_path / "store").as_uri(),
        "OBJECT_BUCKETS": "inbox",
        "RESULT_SINK": "stdout",
        "REPLY": "1",
        "REJECTED_STATUS": "204",
        "MAX_BODY_BYTES": "500000",
        "WEBHOOK_ORIGINS": "eventgrid.azure.net",
    }
    folder.rename(tmp_path / "store" / "inbox")
    with started(tmp_path, stdout=lines, **variables) as server:
        good = server.send(http.to_structured_event(events.event("reading", [4, 5, 6], source="/a", id="x y")))
        assert good.status == 200
        reply = http.from_binary_event(http.HTTPMessage(dict(good.headers), good.body))
        assert (reply.get_type(), reply.get_subject()) == ("com.github.cdk-inference.result.v1", "x y")
        assert reply.get_data()["prediction"] == {"mean": 5.0, "key": "x y", "infinite": None}  # type: ignore[index]
        refused = server.send(http.to_binary_event(events.event("reading", b"refuse", id="2")))
        assert (refused.status, json.loads(refused.body)["status"]) == (200, "REJECTED")

        entry = {"key": "a/b.json", "size": 9, "etag": etag.strip('"'), "sequencer": "1"}
        named = {"time": events.TIME, "detail": {"bucket": {"name": "inbox"}, "object": entry}}
        for data in (named, named):
            assert server.send(http.to_binary_event(events.notification(data))).status == 200
        for key in ("../../rows.jsonl", "/a/b.json", "a//b.json", "a"):
            other = {**named, "detail": {**named["detail"], "object": {**entry, "key": key}}}
            found = json.loads(server.send(http.to_binary_event(events.notification(other))).body)
            assert found["status"] == "REJECTED"
        stale = {**named, "detail": {**named["detail"], "object": {**entry, "etag": "other"}}}
        assert server.send(http.to_binary_event(events.notification(stale))).status == 204
        assert server.send(http.to_binary_event(events.event("Microsoft.Storage.BlobDeleted", {}))).status == 204

        assert server.ask("POST", "/", b"x" * 500_001).status == 413
        assert server.ask("POST", "/", b"{}", {"content-type": "application/json"}).status == 415
        many = json.dumps([{"specversion": "1.0", "id": "1", "source": "s", "type": "Microsoft.Storage."}] * 5_001)
        assert server.ask("POST", "/", many.encode(), {"content-type": events.BATCHED}).status == 413
        twice = [("ce-id", "1"), ("ce-id", "2"), ("ce-specversion", "1.0"), ("ce-source", "s"), ("ce-type", "t")]
        assert raw(server.port, twice).startswith(b"HTTP/1.1 400")
        assert server.ask("GET", "/").status == 405
        assert [server.ask("GET", path).status for path in ("/healthz", "/readyz")] == [200, 200]
        asked = {"webhook-request-origin": "eventgrid.azure.net", "webhook-request-rate": "120"}
        allowed = server.ask("OPTIONS", "/", headers=asked)
        assert (allowed.status, allowed.headers["webhook-allowed-origin"]) == (200, "eventgrid.azure.net")
        assert allowed.headers["webhook-allowed-rate"] == "120"
        stranger = server.ask("OPTIONS", "/", headers={"webhook-request-origin": "elsewhere.example"})
        assert "webhook-allowed-origin" not in stranger.headers
        assert server.terminate() == 0
    written = [json.loads(line) for line in lines.read_text().splitlines()]  # and nothing else
    assert [(row["object"], row["status"]) for row in written[:4]] == [
        ("cloudevents:/a/x y", "SUCCEEDED"),
        ("cloudevents:/tests/2", "REJECTED"),
        ("inbox/a/b.json", "SUCCEEDED"),
        ("inbox/a/b.json", "SUCCEEDED"),
    ]
    assert written[2]["id"] == written[3]["id"]
    assert (written[0]["size"], written[2]["prediction"]["mean"]) == (7, 2.0)


def raw(port: int, headers: list[tuple[str, str]]) -> bytes:
    import socket

    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize(
    ("limits", "data"),
    [({"MAX_REQUESTS": "1"}, "now"), ({"MAX_BODY_BYTES": "1000", "MAX_WAITING_BYTES": "1000"}, "x" * 990)],
    ids=["requests", "bytes"],
)
def test_what_was_begun_ends_after_sigterm_and_what_is_too_much_is_told_to_come_again(
    code: Any, environment: Any, tmp_path: Path, limits: dict[str, str], data: str
) -> None:
    code(WAITING)
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    lines = tmp_path / "rows.jsonl"
    with (
        started(tmp_path, stdout=lines, RESULT_SINK="stdout", **limits) as server,
        ThreadPoolExecutor() as pool,
    ):
        request = pool.submit(server.send, http.to_binary_event(events.event("x", f"wait {tmp_path}")))
        (tmp_path / "begun").read_text()
        busy = server.send(http.to_binary_event(events.event("x", data)))
        assert (busy.status, busy.headers["retry-after"]) == (503, "1")
        assert server.ask("GET", "/healthz").status == 200
        ended = pool.submit(server.terminate)
        server.wait_for(re.compile("Shutting down"))
        (tmp_path / "go").write_text("")
        assert request.result().status == 204
        assert ended.result() == 0
    assert [json.loads(line)["status"] for line in lines.read_text().splitlines()] == ["SUCCEEDED"]
    assert "user code prints" in server.log


def test_a_slow_stage_is_ended_and_its_event_fails(code: Any, environment: Any, tmp_path: Path) -> None:
    code(SLOW)
    with started(tmp_path, RESULT_SINK="stdout", BATCH_SECONDS="1") as server:
        for data in (b"slow", b"uninterruptible"):  # the second is over when no row could be written any more
            slow = server.deliver(http.to_binary_event(events.event("x", data)))
            assert (slow.status, "took longer" in events.parsed(slow)["detail"]) == (500, True)
        assert server.deliver(http.to_binary_event(events.event("x", b"[1]"))).status == 204


def test_a_batch_with_malformed_events_is_scored_and_the_answer_says_which_they_are(
    code: Any, environment: Any, tmp_path: Path
) -> None:
    lines = tmp_path / "rows.jsonl"
    ids = ("a", "b", "c")
    good, refused, last = (
        events.event("x", data, id=id) for id, data in zip(ids, (b"[1]", b"refuse", b"[2]"), strict=True)
    )
    [first, second, third] = json.loads(events.batch(good, refused, last).body)
    batch = [{**first, "specversion": "0.3"}, first, "no object", second, {**third, "time": "noon"}, third]
    with started(tmp_path, stdout=lines, RESULT_SINK="stdout") as server:
        answer = server.ask("POST", "/", json.dumps(batch).encode(), {"content-type": events.BATCHED})
        told = json.loads(answer.body)
        # Malformed is worse than rejected.
        assert (answer.status, told["status"], told["detail"]) == (400, 400, "specversion must be 1.0, got '0.3'")
        assert {each["index"]: each["status"] for each in told["events"]} == {0: 400, 2: 400, 3: 422, 4: 400}
        assert told["events"][-1]["detail"] == "time must be a timestamp of RFC 3339, got 'noon'"
        assert server.terminate() == 0
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {row["key"]: row["status"] for row in written} == {"a": "SUCCEEDED", "b": "REJECTED", "c": "SUCCEEDED"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "70000"}, "PORT must be a whole number from 0 to 65,535"),
        ({"MAX_WAITING_BYTES": "9"}, "MAX_WAITING_BYTES must be a whole number from 8,388,608 to"),
        ({"REJECTED_STATUS": "500"}, "REJECTED_STATUS must be 200, 204, 400, 422, got 500"),
        ({"RESULT_SINK": "paper"}, 'RESULT_SINK must be "dynamodb", "postgres", "process" or "stdout", got "paper"'),
        ({"OBJECT_STORE": "ftp"}, 'OBJECT_STORE must be "s3", "gs", "az" or the URL of a folder, got "ftp"'),
        ({"OBJECT_STORE": "file:///tmp", "OBJECT_BUCKETS": "../etc"}, "OBJECT_BUCKETS must be names of buckets"),
        ({"OBJECT_STORE": "file:///tmp", "OBJECT_BUCKETS": "absent-6f1d"}, "cannot open the object store"),
    ],
)
def test_a_server_that_cannot_serve_says_why_and_ends(
    code: Any, environment: Any, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    given = {"PORT": "0", "HOST": "127.0.0.1", "RESULT_SINK": "stdout", "PYTHONPATH": f"{SOURCES}:{tmp_path}"}
    command = [sys.executable, "-m", "inference_runtime.serving"]
    done = subprocess.run(
        command, env={**os.environ, **given, **variables}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
