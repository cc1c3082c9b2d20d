"""The function that takes labels, where a queue brings events of files."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANDLER = "inference_runtime.handlers.take_labels"
LINE = json.dumps({"key": "a.png", "label": "huge", "by": "Jane"}).encode()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The handler's module, in a package with two classes."""
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    names = ("RUNS_TABLE", "LABELS_TABLE", "RESULTS_TABLE", "BUCKET", "PIPELINE")
    more = {"LAMBDA_TASK_ROOT": str(tmp_path), "MAX_LABEL_BYTES": "100", "AWS_DEFAULT_REGION": "eu-west-1"}
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
    for name, value in {**dict.fromkeys(names, "x"), **more, **keys}.items():
        monkeypatch.setenv(name, value)
    sys.modules.pop(HANDLER, None)
    yield import_module(HANDLER)
    del sys.modules[HANDLER]


def event(size: int) -> dict[str, Any]:
    entry = {"key": "labels/today.jsonl", "size": size, "version-id": "v1"}
    said = {"time": "2026-01-01T00:00:00Z", "detail": {"bucket": {"name": "b"}, "object": entry}}
    return {"Records": [{"messageId": "1", "body": json.dumps(said)}]}


def test_the_version_of_the_event_is_read_and_not_one_that_replaced_it(module: Any) -> None:
    with Stubber(module._s3) as s3:
        body = StreamingBody(io.BytesIO(LINE), len(LINE))
        s3.add_response("get_object", {"Body": body}, {"Bucket": "b", "Key": "labels/today.jsonl", "VersionId": "v1"})
        reason = "label must be one of the model's 2 classes, got 'huge'"
        refused = f"{json.dumps({'label': json.loads(LINE), 'reason': reason})}\n"
        told = {"Bucket": "b", "Key": "rejected-labels/today.jsonl", "ContentType": "application/jsonl"}
        s3.add_response("put_object", {}, {**told, "Body": refused.encode()})
        assert module.handler(event(len(LINE)), None) == {"batchItemFailures": []}
        s3.assert_no_pending_responses()
