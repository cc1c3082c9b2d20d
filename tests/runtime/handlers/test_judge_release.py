"""The function that judges a release reads and writes nothing, whatever happens to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.client import BaseClient
from tests.runtime.conftest import make_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_dynamodb import DynamoDBClient

BAD = {"candidate_errors": 40, "candidate_ok": 10, "stable_errors": 1, "stable_ok": 949}
GOOD = {"candidate_errors": 0, "candidate_ok": 50, "stable_errors": 1, "stable_ok": 949}
PLAN = {"steps": [5, 100], "bake_ms": 1000, "rules": [{"rule": "errors", "times": 1.5}], "confidence": 0.99}
CHANGED_AT = 10_000


class Records:
    """The records of a release that runs, and its judge."""

    def __init__(self, dynamodb: DynamoDBClient, table: str, handler: Callable[..., Any]) -> None:
        self._dynamodb, self._table, self._handler = dynamodb, table, handler
        state = {"status": {"S": "RUNNING"}, "step": {"N": "0"}, "changed_at": {"N": str(CHANGED_AT)}}
        self._put("r1", "state", state)

    def _put(self, release: str, record: str, values: dict[str, Any]) -> None:
        key = {"release": {"S": release}, "record": {"S": record}}
        self._dynamodb.put_item(TableName=self._table, Item={**key, **values})

    def count(self, numbers: dict[str, int], *, release: str = "r1") -> None:
        self._put(release, "step-0", {name: {"N": str(number)} for name, number in numbers.items()})

    def judged(self, *, release: str = "r1", now: int = CHANGED_AT + 1000) -> str:
        return str(self._handler({"release": release, "now": now, "alarms": []})["decision"])

    def all(self) -> list[dict[str, Any]]:
        return list(self._dynamodb.scan(TableName=self._table, ConsistentRead=True)["Items"])


@pytest.fixture
def records(dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch, load: Callable[[str], Any]) -> Records:
    table = make_table(dynamodb, "releases", "release", "record")
    environment.setenv("PIPELINE", "Stack/Photos")
    environment.setenv("RELEASE", "r1")
    environment.setenv("RELEASES_TABLE", table)
    environment.setenv("RELEASE_PLAN", json.dumps({**PLAN, "min_samples": 20}))
    return Records(dynamodb, table, load("judge_release"))


def test_a_judge_that_is_killed_in_the_middle_leaves_no_trace_and_says_the_same_next_time(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.count(BAD)
    before = records.all()
    real = BaseClient._make_api_call

    def killed(self: BaseClient, name: str, arguments: dict[str, Any]) -> Any:
        real(self, name, arguments)
        raise SystemExit(f"killed after {name}")

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", killed)
        with pytest.raises(SystemExit, match="killed after Query"):
            records.judged()
    assert records.all() == before
    assert records.judged() == records.judged() == "abort"
    assert records.all() == before


def test_records_of_another_release_do_not_count(records: Records) -> None:
    records.count(GOOD)
    records.count(BAD, release="r0")
    assert records.judged() == "advance"


def test_an_execution_of_another_release_ends(records: Records) -> None:
    records.count(BAD)
    assert records.judged(release="r0") == "end"


@pytest.mark.parametrize("now", [0, CHANGED_AT - 1, CHANGED_AT + 999])
def test_a_clock_that_is_behind_lets_a_step_last_longer_and_aborts_as_soon(records: Records, now: int) -> None:
    records.count(GOOD)
    assert records.judged(now=now) == "hold"
    records.count(BAD)
    assert records.judged(now=now) == "abort"
