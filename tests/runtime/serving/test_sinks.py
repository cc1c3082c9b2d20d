"""Rows in PostgreSQL: the ones that DynamoDB would have, whatever arrives in which order."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from cloudevents.core.bindings import http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from tests.runtime.serving import events
from tests.runtime.serving.conftest import control
from tests.runtime.serving.process import started
from tests.runtime.stages.mean import USER_CODE, code

from inference_runtime.anywhere.json_lines import plain_row
from inference_runtime.anywhere.postgres import SCHEMA, PostgresSink, open_postgres
from inference_runtime.errors import StageError
from inference_runtime.stages.dynamo_sink import DynamoSink
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import prediction_attribute, row
from inference_runtime.stages.sinks import NeverWrittenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_dynamodb import DynamoDBClient

__all__ = ["code"]  # a fixture

_numbers = itertools.count()
REASONS = ("too dark", "é")

answers = st.tuples(
    st.sampled_from(["SUCCEEDED", "REJECTED", "FAILED"]),
    st.sampled_from(REASONS),
    st.sampled_from(["0", "1", "a", "a0", "B", "f" * 32]),
)


def made(key: str, status: str, reason: str, sequencer: str, **changes: Any) -> dict[str, Any]:
    entry = {"key": key, "size": 1, "etag": "e", "sequencer": sequencer}
    message = {"message_id": "m", "time": events.TIME, "detail": {"bucket": {"name": "inbox"}, "object": entry}}
    told: dict[str, Any] = {"reason": reason}
    if status == "SUCCEEDED":
        told = {"prediction": prediction_attribute({"label": "é", "raw": b"\x00", "score": 0.25, "none": None})}
    common = {"model_version": "m1", "inference": "cpu", "recorded_at": events.TIME, "expires_at": 1_800_000_000}
    return row(Item.from_message(message), status=status, **told, **{**common, **changes})


@pytest.fixture
def variables(database: dict[str, str], environment: pytest.MonkeyPatch) -> dict[str, str]:
    """Those of the database, with a new table."""
    name = f"results_{next(_numbers)}"
    for variable, value in {**database, "RESULTS_TABLE": name}.items():
        environment.setenv(variable, value)
    with psycopg.connect("", autocommit=True) as connection:
        connection.execute(sql.SQL(SCHEMA).format(table=sql.Identifier(name)))
    return {**database, "RESULTS_TABLE": name}


@pytest.fixture
def postgres(variables: dict[str, str]) -> Iterator[PostgresSink]:
    with closing(open_postgres(variables["RESULTS_TABLE"])) as sink:
        yield sink


def test_the_row_that_stays_is_that_of_dynamodb(
    table: str, dynamodb: DynamoDBClient, variables: dict[str, str], postgres: PostgresSink
) -> None:
    query = sql.SQL('SELECT "row" FROM {} WHERE object = %s').format(sql.Identifier(variables["RESULTS_TABLE"]))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(answers, min_size=1, max_size=6))
    def check(told: list[tuple[str, str, str]]) -> None:
        key = f"object {next(_numbers)}"
        other = DynamoSink(dynamodb, table)
        for one in told:
            attributes = made(key, *one)
            assert postgres.write(attributes) == other.write(attributes)
        wanted = {"object": {"S": f"inbox/{key}"}, "version": {"S": "null#m1"}}
        expected: Any = dynamodb.get_item(TableName=table, Key=wanted, ConsistentRead=True)["Item"]
        with psycopg.connect("", autocommit=True) as connection:
            found = connection.execute(query, [f"inbox/{key}"]).fetchall()
        assert found == [(plain_row(expected),)]

    check()


def test_a_row_that_the_database_never_takes_is_told_apart(postgres: PostgresSink) -> None:
    attributes = {**made("a", "REJECTED", "x", "1"), "reason": {"S": "a\x00b"}}
    with pytest.raises(NeverWrittenError):
        postgres.write(attributes)
    # No index takes the longest keys of Azure, which have more bytes than those of S3.
    long = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(1024))
    with pytest.raises(NeverWrittenError, match="index"):
        postgres.write(made(long, "REJECTED", "x", "1"))
    assert postgres.write(made("a", "REJECTED", "x", "1"))


def test_a_wrong_table_or_database_fails_at_the_start(
    variables: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageError, match="must be the name of a table"):
        open_postgres('results"; DROP TABLE results; --')
    with pytest.raises(StageError, match='relation "absent" does not exist'):
        open_postgres("absent")
    environment.setenv("PGHOST", "/nonexistent")
    environment.setattr("inference_runtime.anywhere.postgres.READ_TIMEOUT", 1)
    with pytest.raises(StageError, match="cannot use the table"):
        open_postgres("results")


def test_the_server_writes_rows_into_the_database_and_waits_while_it_is_away(
    code: Any, variables: dict[str, str], tmp_path: Path
) -> None:
    code(USER_CODE.replace('{"mean": mean, ', '{"mean": mean if mean != 3 else "\\0", '))
    table, away = (sql.Identifier(variables["RESULTS_TABLE"] + end) for end in ("", "_away"))
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    with (
        started(tmp_path, RESULT_SINK="postgres", **variables) as server,
        psycopg.connect("", autocommit=True) as connection,
    ):
        message, other = (http.to_binary_event(events.event("x", b"[1, 2]", id=name)) for name in ("1", "2"))
        assert [server.send(message).status for _ in range(2)] == [204, 204]
        query = sql.SQL("""SELECT status, "row" -> 'prediction' -> 'mean' FROM {}""").format(table)
        assert connection.execute(query).fetchall() == [("SUCCEEDED", 1.5)]
        connection.execute(rename.format(table, away))
        assert server.send(other).status == 503
        connection.execute(rename.format(away, table))
        others = "datname IS NOT NULL AND pid <> pg_backend_pid()"
        connection.execute(sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE ") + sql.SQL(others))
        assert server.send(other).status == 204
        last = http.to_binary_event(events.event("x", b"[4]", id="3"))
        control(Path(variables["PGHOST"]), "restart")
        assert server.deliver(last).status == 204
        # No row of PostgreSQL can have this character, so a broker must not send the event again.
        zero = server.send(http.to_binary_event(events.event("x", b"[3]", id="4")))
        assert (zero.status, "NeverWrittenError: " in events.parsed(zero)["detail"]) == (422, True)
    with psycopg.connect("", autocommit=True) as connection:
        found = connection.execute(sql.SQL("SELECT object FROM {} ORDER BY object").format(table)).fetchall()
    assert found == [(f"cloudevents:/tests/{number}",) for number in (1, 2, 3)]
