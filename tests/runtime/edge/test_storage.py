"""Records and bytes outlast full disks, lost files and processes that end while they recover."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.edge.power import ended_at
from tests.runtime.edge.test_steps import handler, settings

from inference_runtime.edge.agent import MAX_TRIES, Agent
from inference_runtime.edge.package import Package
from inference_runtime.edge.results import ResultLines
from inference_runtime.edge.storage import database
from inference_runtime.edge.storage import outbox as module
from inference_runtime.edge.storage.outbox import Outbox
from inference_runtime.edge.storage.spool import Spool
from inference_runtime.errors import LittleTimeError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference_runtime.edge.settings import Settings

__all__ = ["settings"]  # a fixture


def opened(folder: Path) -> Outbox:
    return Outbox(folder, Spool(folder / "spool"))


def take(outbox: Outbox, *keys: str) -> None:
    for key in keys:
        data = key.encode()
        digest = hashlib.sha256(data).hexdigest()
        outbox.take_message(data, size=len(data), key=key, digest=digest, event_time="2026-01-01")


def keys(outbox: Outbox) -> list[str]:
    return [record.key for record in outbox.waiting(100, 10**9)]


def agent(settings: Settings, outbox: Outbox, answer: Callable[..., Any] = handler) -> Agent:
    package = Package.read(settings.state.parent / "package")
    return Agent(package, settings, outbox, outbox._spool, handler=answer, answered=lambda: None)


def test_a_full_disk_is_not_a_broken_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(tmp_path)
    take(outbox, "a", "b")
    outbox.close()

    def full(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE more (text)")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(module, "opened", full)
        patched.setattr(database, "opened", full)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                opened(tmp_path)
    assert keys(opened(tmp_path)) == ["a", "b"]
    assert not list(tmp_path.glob("broken-*"))


def test_bytes_are_taken_again_whenever_the_process_ends_while_it_recovers(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    take(outbox, "a", "b", "c")
    outbox.close()
    (tmp_path / "outbox.db").write_bytes(b"not a database" * 1_000)
    step = 0
    while ended_at(step, lambda: opened(tmp_path).close()):
        step += 1
    assert step > 3
    assert keys(opened(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "outbox.db").unlink()  # by a check of the file system
    assert keys(opened(tmp_path)) == ["a", "b", "c"]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox._connection.execute("PRAGMA user_version = 99")
    outbox.close()
    with pytest.raises(StageError, match="must have version 1 at most, got 99"):
        opened(tmp_path)


def test_an_item_whose_bytes_are_lost_harms_no_other(settings: Settings) -> None:
    outbox = opened(settings.state)
    take(outbox, "lost", "[0, 9]")
    for path in (settings.state / "spool").iterdir():
        if path.read_bytes().endswith(b"\nlost"):
            path.unlink()
    work = agent(settings, outbox)
    work._work()
    work._work()
    assert outbox.backlog()["to_score"] == 0
    assert (outbox.counts()["failed"], outbox.counts()["sure"]) == (1, 1)


@pytest.mark.parametrize("rotten", [b"\n[0, 1]", b"\n", b""], ids=["other", "short", "none"])
def test_an_item_whose_bytes_have_rotted_is_neither_scored_nor_sent(settings: Settings, rotten: bytes) -> None:
    outbox = opened(settings.state)
    take(outbox, "[0, 9]")
    (path,) = (settings.state / "spool").iterdir()
    path.write_bytes(path.read_bytes().removesuffix(b"\n[0, 9]") + rotten)
    agent(settings, outbox)._work()
    assert (outbox.counts()["failed"], outbox.counts()["sure"]) == (1, 0)
    assert [found.name for found in (settings.state / "failed").iterdir()] == [path.name]


@pytest.mark.parametrize("told", ["", "{", "[]", '{"input": "folder"}', '{"size": 1e999}', "x" * 20_000, "[" * 9_000])
def test_a_file_of_the_spool_that_says_nothing_sensible_harms_no_other(tmp_path: Path, told: str) -> None:
    outbox = opened(tmp_path)
    take(outbox, "a", "b")
    outbox.close()
    paths = sorted((tmp_path / "spool").iterdir(), key=lambda path: path.read_bytes()[-1:])
    whole = json.loads(paths[0].read_bytes().partition(b"\n")[0])
    odd = [{"sequence": 10**30}, {"size": []}, {"sequence": 5, "key": "\ud800"}]
    for number, line in enumerate([told, *(json.dumps(whole | member) for member in odd)]):
        (tmp_path / "spool" / f"rotten-{number}").write_bytes(line.encode() + b"\nx")
    (tmp_path / "outbox.db").unlink()
    assert keys(opened(tmp_path)) == ["a", "b"]
    assert len(list((tmp_path / "failed").iterdir())) == 4


def test_half_a_line_of_a_power_cut_spoils_no_other(tmp_path: Path) -> None:
    lines = ResultLines(tmp_path)
    lines.write([{"a": 1}, {"text": "x" * 9_000}])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for half in (b'{"a', b'{"' + b"x" * 9_000, bytes(5_000)):
        path.write_bytes(whole + half)
        lines.write([{"b": 2}])
        assert path.read_bytes() == whole + b'{"b": 2}\n'
    path.write_bytes(b'{"a')
    lines.write([{"b": 2}])
    assert path.read_bytes() == b'{"b": 2}\n'


def test_no_item_is_to_blame_for_a_disk_that_is_full(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = opened(settings.state)
    take(outbox, "[0, 9]", "[0, 8]")
    work = agent(settings, outbox)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "answer", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                work._work()
            work._work()  # takes the tries back
    assert [record.tries for record in outbox.waiting(9, 10**9)] == [0, 0]
    monkeypatch.setattr(ResultLines, "write", full_folder)
    work._work()
    assert outbox.counts()["sure"] == 2


def test_a_file_that_is_too_large_and_has_too_long_a_path_is_set_aside(settings: Settings, tmp_path: Path) -> None:
    outbox = opened(settings.state)
    deep = tmp_path / "watched" / "/".join(["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "large").write_bytes(b"x" * 20)
    work = agent(replace(settings, max_item_bytes=10), outbox)
    while work._work():
        pass
    assert outbox.counts()["failed"] == 1
    assert len(list((tmp_path / "watched" / "failed").rglob("large"))) == 1


def test_answers_that_nobody_collects_give_way(settings: Settings, tmp_path: Path) -> None:
    outbox = opened(settings.state)
    take(outbox, "[0, 9]", "[0, 8]")
    first, second = outbox.waiting(9, 10**9)
    for record, pending in ((first, None), (second, "row")):
        outbox.answer([module.Answer(record, "{}" + " " * 98, {}, "sure", pending, None, 0, publish=True)])
    assert (outbox.leave_unpublished(), outbox.leave_unpublished(), outbox.used) == (1, 0, 100)
    lines = ResultLines(tmp_path / "results")
    for day in range(1, 32):
        (tmp_path / "results" / f"results-2020-01-{day:02}.jsonl").touch()
    (tmp_path / "results" / "mine.jsonl").touch()
    lines.write([{}])
    kept = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert (len(kept), kept[:2]) == (31, ["mine.jsonl", "results-2020-01-03.jsonl"])


def test_what_is_done_often_does_not_look_at_all_that_waits_for_the_network(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    take(outbox, "a", "b")
    statements: list[str] = []
    outbox._connection.set_trace_callback(statements.append)
    outbox.known()
    outbox.answered_files(9)
    outbox.to_publish(9)
    outbox.waiting(9, 9)
    (first, *_) = outbox.waiting(9, 10**9)
    outbox.answer([module.Answer(first, "{}", {}, "sure", "row", None, 0, publish=True)])
    outbox.sent(outbox.to_send("row", 9))
    outbox.published(first)
    outbox.file_gone([first])
    outbox._connection.set_trace_callback(None)
    asked = [text for text in statements if text.startswith(("SELECT", "UPDATE items", "DELETE"))]
    assert len(asked) > 12
    for text in asked:
        plan = [row["detail"] for row in outbox._connection.execute(f"EXPLAIN QUERY PLAN {text}")]
        waiting = "state = 'answered'" in text or "state = 'taken'" in text
        scans = [step for step in plan if step.startswith("SCAN") and "INDEX" not in step]
        assert scans == [], text
        assert waiting or not any("by_state" in step for step in plan), text


def full_folder(*_: object) -> None:
    raise OSError("No space left on device")


def test_an_item_that_is_too_slow_is_set_aside_and_delays_no_other(settings: Settings) -> None:
    outbox = opened(settings.state)
    take(outbox, "slow", *(f"[0, {number}]" for number in range(8)))
    calls: list[list[str]] = []

    def slow(event: dict[str, Any], context: Any) -> dict[str, Any]:
        calls.append([message["item"]["id"] for message in event["messages"]])
        if "slow" in calls[-1]:
            raise LittleTimeError("too late")
        return handler(event, context)

    work = agent(replace(settings, max_batch=4), outbox, slow)
    before = time.monotonic()
    while outbox.backlog()["to_score"]:
        work._work()
        assert time.monotonic() - before < 60
    assert sum("slow" in call for call in calls) <= MAX_TRIES + 2
    assert (outbox.counts()["failed"], outbox.counts()["sure"]) == (1, 8)
    assert work._batch == 1
    for _ in range(41):
        work._learn(late=False)
    assert work._batch == 4
