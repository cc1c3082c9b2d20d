"""Where each object goes, by what S3 really knows of it, and that its row says so."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

SPLIT = 40


def body(a: float = 1, *, fill: int = 0) -> bytes:
    return json.dumps({"a": a, "b": 0, "c": 0, "d": 0, "fill": "x" * fill}).encode()


def sums(row: dict[str, Any]) -> list[float]:
    return [float(value) for value in row["prediction"]["sums"]]


@pytest.fixture(scope="module")
def rows(numbers: Watched) -> dict[str, dict[str, Any]]:
    """Put objects for all strategies at once, and return their rows."""
    objects: dict[str, dict[str, Any]] = {
        "plain.json": {},
        "tag/gold.json": {"Tagging": "tier=gold&color=blue"},
        "tag/silver.json": {"Tagging": "tier=silver"},
        "tag/none.json": {},
        "metadata/high.json": {"Metadata": {"quality": "high", "other": "high"}},
        "metadata/low.json": {"Metadata": {"quality": "low"}},
        "metadata/none.json": {},
        "model/large.json": {"Metadata": {"model": "large"}},
        "model/unknown.json": {"Metadata": {"model": "enormous"}},
        "size/small.json": {},
        "size/large.json": {"Body": body(fill=100)},
        "function/few.json": {},
        "function/many.json": {},
        "cascade/sure.json": {"Body": body(5)},
        "cascade/unsure.json": {"Body": body(1.2)},
        "cascade/bad.json": {"Body": b"no numbers"},
        # a key that could be taken for code
        "tag/\"' & $key {% $states.input %} été.json": {"Tagging": "tier=gold"},
        **{f"split/{number}.json": {} for number in range(SPLIT)},
    }
    s3 = numbers.cloud.client("s3")
    for key, options in objects.items():
        s3.put_object(Bucket=numbers.bucket, Key=key, **({"Body": body()} | options))
    ends = numbers.ends(objects)
    assert ends == dict.fromkeys(objects, "SUCCEEDED") | {"cascade/bad.json": "REJECTED"}
    return {row["key"]: row for row in numbers.rows(*objects)}


def test_objects_go_where_their_tags_metadata_sizes_and_keys_say(rows: dict[str, dict[str, Any]]) -> None:
    routes = {key: row["route"] for key, row in rows.items() if not key.startswith(("split/", "cascade/"))}
    large = {
        "tag/gold.json",
        "tag/\"' & $key {% $states.input %} été.json",
        "metadata/high.json",
        "model/large.json",
        "size/large.json",
        "function/many.json",
    }
    assert routes == {key: "large" if key in large else "small" for key in routes}
    for key, route in routes.items():
        assert sums(rows[key]) == [10 if route == "large" else 1, 0]
        assert "variant" not in rows[key]
        assert "first" not in rows[key]


def test_a_split_is_even_and_says_the_variant(rows: dict[str, dict[str, Any]]) -> None:
    split = [row for key, row in rows.items() if key.startswith("split/")]
    assert {(row["variant"], row["route"]) for row in split} == {("control", "small"), ("candidate", "large")}
    variants = Counter(row["variant"] for row in split)
    assert min(variants.values()) > SPLIT / 10  # a fair coin fails once in five million times


def test_both_models_of_a_cascade_may_be_on_a_cpu(rows: dict[str, dict[str, Any]]) -> None:
    sure, unsure = rows["cascade/sure.json"], rows["cascade/unsure.json"]
    assert (sure["route"], sums(sure)) == ("small", [5, 0])
    assert sure["confidence"] >= 0.8
    assert (unsure["route"], sums(unsure)) == ("large", pytest.approx([12, 0]))
    assert unsure["first"]["route"] == "small"
    assert sums(unsure["first"]) == pytest.approx([1.2, 0])
    assert unsure["first"]["confidence"] < 0.8
    assert sure["version"] == unsure["version"]
    assert rows["cascade/bad.json"]["reason"]


def test_what_the_users_function_does_not_decide_is_a_dead_letter(numbers: Watched, undecided: dict[str, str]) -> None:
    assert numbers.ends(undecided) == undecided


def test_metrics_by_route_and_variant_are_those_of_the_rows(
    numbers: Watched, rows: dict[str, dict[str, Any]], undecided: dict[str, str]
) -> None:
    numbers.ends(undecided)  # one of which has a row
    before = {by: numbers.metrics(by) for by in ("route", "variant")}
    measured = {f"split/measured/{number}.json": body() for number in range(8)}
    measured |= {"cascade/measured.json": body(1.2), "measured.json": b"no numbers"}
    for key, data in measured.items():
        numbers.put(key, data)
    numbers.ends(measured)
    written = numbers.rows(*measured)
    expected = {by: Counter((row[by], row["status"].capitalize()) for row in written if by in row) for by in before}
    assert {by: counts.total() for by, counts in expected.items()} == {"route": 10, "variant": 8}

    def recorded() -> dict[str, Counter[tuple[str, str]]]:
        return {by: numbers.metrics(by) - before[by] for by in before}

    wait_until(lambda: recorded() == expected, recorded, every=0.5)


def test_the_same_object_always_goes_the_same_way(numbers: Watched, rows: dict[str, dict[str, Any]]) -> None:
    again = [f"split/{number}.json" for number in range(6)]
    before = numbers.executions()
    for key in again:
        numbers.put(key, body())
    numbers.wait_for_queued(again, 0)
    numbers.wait_for_executions(before)
    now = {row["key"]: row for row in numbers.rows(*again)}
    assert {key: row["variant"] for key, row in now.items()} == {key: rows[key]["variant"] for key in again}
    assert all(now[key]["sequencer"] > rows[key]["sequencer"] for key in again)
