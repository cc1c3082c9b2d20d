"""Whichever step a process ends before, each item is answered once, and sent once."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.edge.device import SURE, UNSURE, write_package
from tests.runtime.edge.power import ended_at

from inference_runtime.anywhere.collected import collected_rows
from inference_runtime.edge.agent import Agent
from inference_runtime.edge.cloud.requests import AwsError, AwsRequests
from inference_runtime.edge.cloud.uplink import Uplink
from inference_runtime.edge.inputs import folder
from inference_runtime.edge.package import Package
from inference_runtime.edge.settings import Settings
from inference_runtime.edge.storage.outbox import Outbox
from inference_runtime.edge.storage.records import TOPIC
from inference_runtime.edge.storage.spool import Spool
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import row

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE = b"[1, 8]"
DIGEST = hashlib.sha256(MESSAGE).hexdigest()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer as the handler of a fused function."""
    for message in event["messages"]:
        item = Item.from_message(message)
        said = {"model_version": "m1", "inference": "cpu", "recorded_at": "2026-01-01T00:00:00.000+00:00"}
        sure = 0.5 if item.payload == UNSURE else 1.0
        prediction = {"M": {"label": {"S": "1"}}}
        collected_rows().write(row(item, status="SUCCEEDED", prediction=prediction, confidence=sure, **said))
    answers = [{"message_id": message["message_id"], "status": "SUCCEEDED"} for message in event["messages"]]
    return {"retry": [], "failures": [], "unfinished": [], "answers": answers}


class Aws(AwsRequests):
    """Keeps what is sent in a file, and refuses what is there, as AWS does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put_object(self, _: str, key: str, *__: Any) -> None:
        self._keep(key, "PreconditionFailed")

    def call(self, _: str, __: str, request: Any) -> dict[str, Any]:
        self._keep(request["Item"]["object"]["S"], "ConditionalCheckFailedException")
        return {}

    def _keep(self, key: str, code: str) -> None:
        if key in self._path.read_text().splitlines():
            raise AwsError(code, code=code, transient=False)
        with self._path.open("a") as file:
            file.write(f"{key}\n")


def work(settings: Settings, sent: Path) -> None:
    """Do what there is to do on one thread, and end."""
    if settings.watched is None:
        raise AssertionError
    spool = Spool(settings.state / "spool")
    outbox = Outbox(settings.state, spool)
    package = Package.read(settings.state.parent / "package")
    uplink = Uplink(settings, "1.0.0", outbox, spool, sent=lambda: None)
    uplink._requests = Aws(sent)
    agent = Agent(package, settings, outbox, spool, handler=handler, answered=lambda: None)
    if not outbox.has(TOPIC, "scores/d"):
        outbox.take_message(MESSAGE, size=len(MESSAGE), key="scores/d", digest=DIGEST, event_time="2026-01-01")
    turns = 0
    while agent._work() or uplink._step() is not None or turns < 2:
        turns += 1
    agent._tidy()
    outbox.close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    given = {
        "DEVICE": "cam-1",
        "STATE_FOLDER": str(tmp_path / "state"),
        "WATCH_FOLDER": str(tmp_path / "watched"),
        "RESULTS_FOLDER": str(tmp_path / "results"),
        "WATCH_AFTER": "move",
        "SETTLE_MS": "0",
        "INBOX_BUCKET": "inbox",
        "RESULTS_TABLE": "results",
        "AWS_REGION": "eu-central-1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    commit = Outbox._commit

    def audited(self: Outbox, *, durable: bool = False) -> Any:
        sys.audit("edge.commit")
        return commit(self, durable=durable)

    monkeypatch.setattr(Outbox, "_commit", audited)
    return Settings.from_environment(Package.read(write_package(tmp_path / "package")))


def test_each_item_is_answered_and_sent_once_whenever_the_process_ends(settings: Settings, tmp_path: Path) -> None:
    step, ended = 0, True
    while ended:
        root = tmp_path / str(step)
        (root / "watched").mkdir(parents=True)
        (root / "package").symlink_to(tmp_path / "package")
        sent = root / "sent"
        sent.touch()
        for name, data in (("a.json", SURE), ("b.json", UNSURE), ("c.json", b"")):
            (root / "watched" / name).write_bytes(data)
        here = replace(settings, state=root / "state", watched=root / "watched", results=root / "results")
        ended = ended_at(step, lambda here=here, sent=sent: work(here, sent))
        work(here, sent)
        keys = sent.read_text().splitlines()
        inbox = [key for key in keys if key.startswith("edge/")]
        assert [key.rpartition("/")[2] for key in inbox] == ["b.json"], step
        rows = sorted(set(keys) - set(inbox))
        assert rows == ["edge:cam-1/a.json", "edge:cam-1/c.json", "edge:cam-1/scores/d"], step
        assert len(keys) == 4
        assert sorted(path.name for path in (root / "watched" / folder.DONE).iterdir()) == [
            "a.json",
            "b.json",
            "c.json",
        ]
        assert not list((root / "state" / "spool").iterdir())
        assert not (root / "state" / "failed").exists()
        (lines,) = (root / "results").iterdir()
        assert len({json.loads(line)["id"] for line in lines.read_text().splitlines()}) == 4
        step += 1
    assert step > 25
