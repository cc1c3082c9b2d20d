"""Labels: what is taken, what is refused, and that each counts once, whatever comes in which order."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import RetryableError
from inference_runtime.retraining.label_set import LabelSet
from inference_runtime.retraining.label_table import AT_ONCE, LabelTable
from inference_runtime.retraining.labels import Label, LabelError, newest, parse, parse_lines

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLASSES = frozenset(("cat", "dog"))
GOOD = {"key": "a.png", "label": "cat", "by": "Jane"}

LABELS = st.builds(
    Label,
    key=st.sampled_from(["a", "b", "c", "d"]),
    label=st.sampled_from(["cat", "dog"]),
    by=st.just("Jane"),
    at=st.integers(0, 5).map(lambda day: (NOW - timedelta(days=day)).isoformat()),
    version_id=st.sampled_from(["v1", "v2"]),
)


class CanceledError(ClientError):
    """As that of a client."""


class Tables:
    """A table of labels and a counter, in memory: as far as labels look at them.

    Parameters
    ----------
    conflicts
        For each of the next transactions whether others write at the same time.
    """

    def __init__(self, conflicts: list[bool] | None = None) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.accepted = 0
        self.conflicts = conflicts or []
        self.exceptions = type("Exceptions", (), {"TransactionCanceledException": CanceledError})

    def transact_write_items(self, TransactItems: list[dict[str, Any]]) -> None:  # noqa: N803 - as botocore names it
        *puts, update = TransactItems
        assert len(TransactItems) <= 100
        keys = [put["Put"]["Item"]["object"]["S"] for put in puts]
        assert len(set(keys)) == len(keys)  # DynamoDB refuses two writes to an item
        conflict = bool(self.conflicts) and self.conflicts.pop()
        codes = ["TransactionConflict" if conflict else self._code(put["Put"]["Item"]) for put in puts]
        if set(codes) != {"None"}:
            reasons = [{"Code": code} for code in [*codes, "None"]]
            raise CanceledError({"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}, "")  # type: ignore[typeddict-unknown-key]
        self.rows |= {put["Put"]["Item"]["object"]["S"]: put["Put"]["Item"] for put in puts}
        self.accepted += int(update["Update"]["ExpressionAttributeValues"][":number"]["N"])

    def _code(self, new: dict[str, Any]) -> str:
        old = self.rows.get(new["object"]["S"])
        changes = old is not None and any(old[name] != new[name] for name in ("label", "version_id"))
        fits = old is None or (changes and old["at"]["S"] < new["at"]["S"])
        return "None" if fits else "ConditionalCheckFailed"

    def update_item(self, *, Key: dict[str, Any], ExpressionAttributeValues: dict[str, Any], **_: Any) -> None:  # noqa: N803
        old, said = self.rows[Key["object"]["S"]], ExpressionAttributeValues
        if old["at"]["S"] >= said[":at"]["S"] or any(old[n] != said[f":{n}"] for n in ("label", "version_id")):
            raise ClientError({"Error": {"Code": "ConditionalCheckFailedException"}}, "UpdateItem")
        old |= {"at": said[":at"], "by": said[":by"]}

    def labels(self) -> list[dict[str, str]]:
        return [{name: value["S"] for name, value in row.items()} for row in self.rows.values()]


def table(tables: Tables) -> LabelTable:
    return LabelTable(
        tables,  # type: ignore[arg-type]
        labels="labels",
        runs="runs",
        results="results",
        bucket="inbox",
        pause=lambda _: None,
    )


@given(st.lists(LABELS, max_size=30), st.lists(st.booleans(), max_size=3))
def test_each_label_counts_once_however_often_it_comes(labels: list[Label], conflicts: list[bool]) -> None:
    tables = Tables(conflicts)
    for label in labels:
        table(tables).write([label], "now")
    counted, rows = tables.accepted, tables.labels()
    for label in labels:  # all of it again
        assert table(tables).write([label], "later") == 0
    assert (tables.accepted, tables.labels()) == (counted, rows)
    assert len(rows) <= counted <= len(labels)
    for row in rows:
        newest_at = max(label.at for label in labels if label.key == row["key"])
        said = {(one.label, one.version_id) for one in labels if (one.key, one.at) == (row["key"], newest_at)}
        assert row["at"] == newest_at
        assert (row["label"], row["version_id"]) in said


@given(st.lists(LABELS, max_size=30))
def test_a_file_has_one_label_for_each_object_the_newest(labels: list[Label]) -> None:
    found = newest(labels)
    assert Counter(label.key for label in found) == Counter({label.key for label in labels})
    for label in found:
        assert label.at == max(one.at for one in labels if one.key == label.key)
    tables = Tables()
    assert table(tables).write(found, "now") == len(found) == tables.accepted
    assert table(tables).write(found, "now") == 0


def test_many_labels_go_in_transactions_that_dynamodb_takes() -> None:
    tables = Tables()
    labels = [Label(str(number), "cat", "Jane", NOW.isoformat(), "v") for number in range(2 * AT_ONCE + 1)]
    assert table(tables).write(labels, "now") == len(labels) == tables.accepted


def test_labels_that_others_write_all_the_time_fail() -> None:
    with pytest.raises(RetryableError, match="cannot write 1 labels: others change them"):
        table(Tables([True] * 100)).write([Label("a", "cat", "Jane", NOW.isoformat(), "v")], "now")


@given(st.permutations(range(6)), st.floats(0, 0.9))
def test_the_run_follows_from_the_labels_and_not_from_their_order(order: list[int], held_out: float) -> None:
    labels = [label(number) for number in range(6)]
    first, again = (LabelSet.of(one, held_out=held_out) for one in (labels, [labels[number] for number in order]))
    assert (first.run, first.lines, first.size) == (again.run, again.lines, 6)
    # It does not matter who said so and when, but what was said.
    assert LabelSet.of([one | {"by": "John"} for one in labels], held_out=held_out).run == first.run
    for changed in ({"label": "dog"}, {"version_id": "v2"}, {"key": "other"}):
        assert LabelSet.of([labels[0] | changed, *labels[1:]], held_out=held_out).run != first.run
    assert LabelSet.of(labels[1:], held_out=held_out).run != first.run
    assert LabelSet.of(labels, held_out=held_out, salt="again").run != first.run


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=50), st.floats(0, 0.9))
def test_an_object_that_is_held_out_once_always_is(numbers: set[int], held_out: float) -> None:
    def held(found: LabelSet) -> dict[str, bool]:
        return {line["key"]: line["held_out"] for line in map(json.loads, found.lines.splitlines())}

    labels = [label(number) for number in sorted(numbers)]
    first = held(LabelSet.of(labels, held_out=held_out))
    more = held(LabelSet.of([*labels, *(label(number) for number in range(20_000, 20_020))], held_out=held_out))
    assert {key: more[key] for key in first} == first


def test_about_as_many_are_held_out_as_asked_for() -> None:
    found = LabelSet.of([label(number) for number in range(2000)], held_out=0.2)
    assert 340 < sum(json.loads(line)["held_out"] for line in found.lines.splitlines()) < 460


def label(number: int) -> dict[str, str]:
    return {
        "bucket": "inbox",
        "key": f"{number}.png",
        "version_id": "v1",
        "label": "cat",
        "by": "Jane",
        "at": NOW.isoformat(),
    }


def test_a_label_that_can_be_right_is_taken() -> None:
    assert parse(GOOD, CLASSES, NOW) == Label("a.png", "cat", "Jane", NOW.isoformat())
    said = GOOD | {"at": "2025-12-31T13:00:00+01:00", "version_id": "v1"}
    assert parse(said, CLASSES, NOW) == Label("a.png", "cat", "Jane", "2025-12-31T12:00:00+00:00", "v1")
    # A clock that is fast outdates nobody's correction.
    assert parse(GOOD | {"at": "2026-01-01T00:04:59.5Z"}, CLASSES, NOW).at == NOW.isoformat()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("cat", "a label must be a JSON object, got 'cat'"),
        (GOOD | {"label": "huge"}, "label must be one of the model's 2 classes, got 'huge'"),
        (GOOD | {"label": 1}, "label must be a string that is not empty, got 1"),
        (GOOD | {"key": " "}, "key must be a string that is not empty"),
        (GOOD | {"key": "\ud800"}, "key must be valid Unicode"),
        (GOOD | {"key": "é" * 513}, "key must be at most 1,024 bytes, got 1,026"),  # no query takes much more
        ({"key": "a.png", "label": "cat"}, "by must be a string that is not empty, got None"),
        (GOOD | {"by": "x" * 257}, "by must be at most 256 characters, got 257"),
        (GOOD | {"at": "yesterday"}, "at must be a time in ISO 8601, got 'yesterday'"),
        (GOOD | {"at": "2025-12-31T12:00:00"}, "at must have a time zone"),
        (GOOD | {"at": "2026-01-01T00:05:01Z"}, "at must not be after now"),
        (GOOD | {"class": "cat"}, "members must be at, by, key, label, version_id, got class"),
    ],
)
def test_a_label_that_cannot_be_right_fails(said: object, reason: str) -> None:
    with pytest.raises(LabelError, match=reason):
        parse(said, CLASSES, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
MEMBERS = st.fixed_dictionaries({}, optional=dict.fromkeys(("key", "label", "by", "at", "version_id", "x"), JSON))


@given(JSON | MEMBERS)
def test_whatever_is_sent_is_taken_or_refused_with_a_reason(said: object) -> None:
    try:
        taken = parse(said, CLASSES, NOW)
    except LabelError as error:
        reason = str(error)
    else:
        reason = taken.label
    assert reason in CLASSES or 0 < len(reason) < 1000


def test_a_line_ends_where_json_lines_end_and_nowhere_else() -> None:
    said = [GOOD | {"by": "a\u2028b\x85c"}, GOOD]
    lines = [json.dumps(one, ensure_ascii=False) for one in said]
    assert parse_lines("\ufeff{}\r\n\n{}\r\n{{\r\n".format(*lines).encode()) == [*said, "{"]


@given(st.binary(max_size=200))
def test_any_bytes_are_lines(data: bytes) -> None:
    assert len(parse_lines(data)) <= data.count(b"\n") + len(data)
