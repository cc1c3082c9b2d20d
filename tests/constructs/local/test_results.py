"""The output of `results` and `logs`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.constructs.local.templates import create, pipeline
from tests.constructs.local.test_cli import run, served
from tests.constructs.local.test_emulator import invoke, make_function

from cdk_inference.local import LocalCloud, Outcome
from cdk_inference.local.background import Background
from cdk_inference.local.cli import _out, _show

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud(pipes=False) as cloud:
        yield cloud


def test_keys_that_look_like_markup_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_out, "_width", 200)  # nothing is cut off
    for key in ("[/b].png", "photo[copy].jpg", "[red]", ":smile:.png", "a\\[b]"):
        _show([Outcome(key, "REJECTED", reason=f"no [image] {key}")], as_json=False)
        shown = capsys.readouterr().out
        assert f" {key} " in shown
        assert "no [image]" in shown


def test_results_ask_for_rows_only(cloud: LocalCloud) -> None:
    create(cloud.client("cloudformation"), "Marked", pipeline())
    made = cloud.pipeline()
    for number in range(30):
        row = {
            "object": f"{made.inbox}/{number}",
            "bucket": made.inbox,
            "key": str(number),
            "etag": "any",
            "status": "SUCCEEDED",
            "event_time": "2026-01-02T03:04:05.250Z",
            "recorded_at": f"2026-01-02T03:04:{10 + number}.500+00:00",
        }
        cloud.client("dynamodb").put_item(
            TableName=made._table, Item={name: {"S": value} for name, value in row.items()}
        )
    asked: list[str] = []
    for client in (made._s3, made._dynamodb):
        client.meta.events.register("before-call", lambda model, **_: asked.append(model.name))
    found = made.outcomes()
    assert [(outcome.key, outcome.seconds) for outcome in found] == [(str(n), 5.25 + n) for n in range(30)]
    assert asked == ["Scan"]


def test_an_error_of_the_emulator_is_in_the_logs_and_ends_a_wait(tmp_path: Path) -> None:
    with served(tmp_path):
        cloud = Background(tmp_path).cloud()
        name = make_function(cloud.endpoint, "def handler(event, context):\n    return 1\n")
        # As with a full disk, no code can be unpacked.
        temporary = Path(json.loads((tmp_path / ".cdk-inference/local.json").read_text())["log"]).parent / "tmp"
        shutil.rmtree(temporary)
        temporary.write_text("")
        assert "errorMessage" in invoke(cloud.endpoint, name)
        shown = run(tmp_path, "logs").stdout
        assert f" emulator [lambda] Warm worker execution error for {name}: [Errno 20] Not a directory" in shown
