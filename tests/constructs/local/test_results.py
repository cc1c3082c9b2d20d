"""The output of `results` and `logs`."""

from __future__ import annotations

import io
import json
import re
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from boto3.dynamodb.types import TypeDeserializer
from rich.console import Console
from tests.constructs.local.templates import create, pipeline
from tests.constructs.local.test_cli import run, served
from tests.constructs.local.test_emulator import invoke, make_function

from cdk_inference.local import LocalCloud, LocalError, Outcome
from cdk_inference.local.background import Background
from cdk_inference.local.cli import _out, _show
from cdk_inference.local.messages import Message
from cdk_inference.local.tables import all_results, one_result
from cdk_inference.local.uploads import _is_older, plain
from inference_runtime.stages.rows import prediction_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table


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


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"time": "2026-01-01T00:00:00Z", "detail": {"object": {"key": "a b"}}}', "a b"),
        ('{"time": "2026-01-01T00:00:00Z", "detail": "{\\"object\\": {\\"key\\": \\"a b\\"}}"}', "a b"),
        ('{"Records": [{"eventTime": "2026-01-01T00:00:00Z", "s3": {"object": {"key": "a+b"}}}]}', "a b"),
        ('{"time": "2026-01-01T00:00:00Z", "detail": 5}', ""),
        ('{"detail": "not JSON"}', ""),
        ('{"detail": {"object": []}, "Records": []}', ""),
        ("not JSON", ""),
        ("[]", ""),
    ],
)
def test_a_dead_letter_may_be_anything(body: str, key: str) -> None:
    message = Message("1", body)
    assert message.key == key
    assert not key or _is_older(message.event, datetime(2026, 1, 2, tzinfo=UTC))
    assert not _is_older({"time": None}, datetime(2026, 1, 2, tzinfo=UTC))


PREDICTION = {
    "label": "cat",
    "score": 0.9,
    "boxes": [{"label": "ear", "at": [1, 2], "sure": True}, {"label": "[/b]tail\x1b[2J", "score": 0.1234567}],
    "vector": [0.5] * 300,
    "mask": b"\x00\xff",
    "text": None,
}


def history() -> list[Outcome]:
    """Two results of an object, the last written first."""
    facts = {"object": "inbox/a.jpg", "key": "a.jpg", "size": Decimal(7), "recorded_at": "2026-01-02T03:04:05+00:00"}
    rejected = facts | {"version": "null#1", "status": "REJECTED", "reason": "not a JPEG"}
    good = facts | {"version": "null#2", "status": "SUCCEEDED", "prediction": PREDICTION}
    read = TypeDeserializer().deserialize
    good["prediction"] = read(prediction_attribute(PREDICTION))
    return [
        Outcome("a.jpg", "SUCCEEDED", label="cat", score=0.9, prediction=plain(good["prediction"]), row=good),
        Outcome("a.jpg", "REJECTED", reason="not a JPEG", row=rejected),
        Outcome("a.jpg", "DEAD_LETTER", reason="Timeout: 3 s", row={"time": "2025-12-31T00:00:00Z"}),
    ]


def shown(*tables: Table, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_tables_show_the_prediction_and_the_row_of_one_object() -> None:
    everything = shown(all_results(history()))
    for text in ("│ cat 0.9 ", "boxes: ear, at 1, 2, sure true, [/b]tail", "… 300 in all", "mask: AP8=", "text: null"):
        assert text in everything
    assert " not a JPEG " in everything
    assert " Timeout: 3 s " in everything
    assert "\x1b" not in everything
    row, before = (shown(table) for table in one_result(history()))
    assert [name for name in history()[0].row if f"│ {name} " not in row] == []
    assert '{"label": "ear", "at": [1, 2], "sure": true}' in row
    assert row.count("0.5, ") == 299  # no list is cut
    assert re.findall(r"REJECTED|DEAD_LETTER|null#\d|2025-12-31T00:00:00Z", before) == [
        "null#1",
        "REJECTED",
        "2025-12-31T00:00:00Z",
        "DEAD_LETTER",
    ]
    assert len(one_result(history()[:1])) == 1
    assert max(map(len, shown(all_results(history()), *one_result(history()), width=60).splitlines())) <= 60


def test_json_has_the_whole_prediction_with_plain_values() -> None:
    newest = history()[0]
    found = json.loads(newest.as_json())
    assert "row" not in found
    assert found["prediction"] == PREDICTION | {"mask": "AP8="}
    assert json.loads(newest.as_json(whole=True))["row"]["size"] == 7


def test_results_ask_for_rows_only(cloud: LocalCloud) -> None:
    create(cloud.client("cloudformation"), "Marked", pipeline())
    made = cloud.pipeline()
    for number in range(30):
        row = {
            "object": f"{made.inbox}/{number}",
            "bucket": made.inbox,
            "version": "null#1",
            "key": str(number),
            "etag": "any",
            "status": "SUCCEEDED",
            "event_time": "2026-01-02T03:04:05.250Z",
            "recorded_at": f"2026-01-02T03:04:{10 + number}.500+00:00",
        }
        cloud.client("dynamodb").put_item(
            TableName=made.table, Item={name: {"S": value} for name, value in row.items()}
        )
    asked: list[str] = []
    for client in (made._s3, made._dynamodb):
        client.meta.events.register("before-call", lambda model, **_: asked.append(model.name))
    found = made.outcomes()
    assert [(outcome.key, outcome.seconds) for outcome in found] == [(str(n), 5.25 + n) for n in range(30)]
    assert asked == ["Scan"]
    # A postprocessing of your own may call whatever it likes a score.
    strange = {"label": {"M": {}}, "score": {"L": [{"N": "1"}]}, "class_index": {"BOOL": True}}
    row |= {"key": "7", "version": "null#2", "recorded_at": "2026-01-02T03:05:00.000+00:00"}
    cloud.client("dynamodb").put_item(
        TableName=made.table, Item={name: {"S": value} for name, value in row.items()} | {"prediction": {"M": strange}}
    )
    newest, older = made.history("7")
    assert (newest.label, newest.score, newest.class_index) == (None, None, None)
    assert newest.prediction == {"label": {}, "score": [1], "class_index": True}
    assert older.row["version"] == "null#1"
    with pytest.raises(LocalError, match="key must be that of an object with a row or a dead letter, got '70'"):
        made.history("70")


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
