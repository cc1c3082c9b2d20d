"""The client for results: it stands alone, and reads rows as they are written."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cdk_inference.client import Page, Query, Result, Results
from cdk_inference.errors import InferenceError
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute, row, with_label

ITEM = Item(
    id="1",
    bucket="inbox",
    key="a.jpg",
    version_id="v1",
    etag="ab",
    size=3,
    sequencer="0" * 32,
    event_time="2026-01-01T00:00:00Z",
    message_id="m",
)


def written(item: Item = ITEM, **outcome: Any) -> dict[str, Any]:
    named = {"status": "SUCCEEDED", "model_version": "m1", "inference": "cpu", **outcome}
    return row(item, recorded_at="2026-01-01T00:00:01.000+00:00", **named)


def test_it_imports_neither_cdk_nor_boto3() -> None:
    heavy = "{'aws_cdk', 'jsii', 'boto3', 'botocore', 'numpy'}"
    code = f"import sys, cdk_inference.client; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_row_is_read_as_it_was_meant() -> None:
    prediction = {"label": "cat", "score": 0.5, "top": [1, None, True], "bytes": b"x", "far": -1e-30}
    item = replace(ITEM, kept={"width": 4})
    explanation = {"method": "occlusion", "grid": [[0.5, 1]]}
    attributes = written(item, prediction=prediction_attribute(prediction), confidence=0.25, explanation=explanation)
    result = Result.from_row(attributes)
    assert result.explanation == explanation
    assert result.prediction == prediction
    assert (result.bucket, result.key, result.version_id) == ("inbox", "a.jpg", "v1")
    assert result.event_time == datetime(2026, 1, 1, tzinfo=UTC)
    assert result.recorded_at == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert (result.confidence, result.reason, result.route, result.kept) == (0.25, None, None, {"width": 4})


def test_a_row_that_did_not_succeed_has_its_reason() -> None:
    result = Result.from_row(written(status="REJECTED", reason="object is empty"))
    assert (result.status, result.prediction, result.reason) == ("REJECTED", None, "object is empty")


@pytest.mark.parametrize(
    ("prediction", "label"),
    [({"label": "cat"}, "cat"), ({"label": ""}, None), ({"label": "a" * 2049}, None), ({"label": 1}, None), ({}, None)],
)
def test_a_label_that_an_index_takes_is_an_attribute(prediction: dict[str, Any], label: str | None) -> None:
    attributes = with_label(written(prediction=prediction_attribute(prediction)))
    assert attributes.get("label") == (None if label is None else {"S": label})
    assert "label" not in with_label(written(status="FAILED", reason="why"))


class Table:
    """A table of three rows that answers for two of the keys that it is asked for at a time."""

    def __init__(self) -> None:
        self.rows = [{**written(), "version": {"S": f"v{n}#m1"}} for n in range(3)]
        self.asked: list[int] = []

    def query(self, *, Limit: int, ExclusiveStartKey: Any = None, **_: Any) -> dict[str, Any]:  # noqa: N803
        start = 0 if ExclusiveStartKey is None else ExclusiveStartKey["at"]
        keys = [{name: one[name] for name in ("object", "version")} for one in self.rows[start : start + Limit]]
        more = {"LastEvaluatedKey": {"at": start + Limit}} if start + Limit < len(self.rows) else {}
        return {"Items": keys, **more}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((table, wanted),) = RequestItems.items()
        self.asked.append(len(wanted["Keys"]))
        now, later = wanted["Keys"][:2], wanted["Keys"][2:]
        found = [one for one in self.rows if {name: one[name] for name in ("object", "version")} in now]
        unprocessed = {table: {"Keys": later}} if later else {}
        return {"Responses": {table: found[::-1]}, "UnprocessedKeys": unprocessed}


def test_rows_that_dynamodb_leaves_for_later_are_asked_for_again() -> None:
    table = Table()
    found = list(Results("results", table).under("inbox"))
    assert [one.version_id for one in found] == ["v0", "v1", "v2"]
    assert table.asked == [3, 1]


def test_pages_follow_each_other() -> None:
    query: Query = Results("results", Table()).with_status("SUCCEEDED")
    first: Page = query.page(size=2)
    assert [one.version_id for one in first.results] == ["v0", "v1"]
    last = query.page(size=2, after=first.next)
    assert [one.version_id for one in last.results] == ["v2"]
    assert last.next is None


@pytest.mark.parametrize("size", [0, 101])
def test_a_page_that_no_request_reads_fails(size: int) -> None:
    with pytest.raises(InferenceError, match="size must be 1 to 100"):
        Results("results", Table()).under("inbox").page(size=size)


def test_a_time_without_a_zone_fails() -> None:
    with pytest.raises(InferenceError, match="times must have a time zone, got 2026-01-01"):
        Results("results", Table()).recorded("inbox", since=datetime(2026, 1, 1))
