"""The plan of a backfill: which objects are scored, and that no order of events and backfills leaves a wrong row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_runtime.backfill import Planner, Wanted
from inference_runtime.stages.dynamo_sink import put_row
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import row

BUCKET, KEY = "inbox", "in/a b.json"
WANTED: dict[str, Any] = {
    "prefix": "in/",
    "suffixes": [],
    "since": None,
    "encoded": False,
    "models": ["m1"],
    "again": [],
}
HERE = {"Key": KEY}


@dataclass
class World:
    """A bucket with one key, and a table, in memory: as far as the planner and the rows look at them."""

    versioned: bool
    versions: list[tuple[str, str, str]] = field(default_factory=list)  # content, version id, sequencer
    table: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    writes: int = 0

    def put(self, content: str) -> dict[str, Any]:
        """Write the object, and return its event."""
        self.writes += 1
        version_id = f"v{self.writes}" if self.versioned else "null"
        self.versions.append((content, version_id, f"0055AED6DCD9{self.writes:06X}"))
        return self.event()

    def event(self) -> dict[str, Any]:
        content, version_id, sequencer = self.versions[-1]
        entry = {"key": KEY, "size": 1, "etag": etag(content), "sequencer": sequencer}
        if self.versioned:
            entry["version-id"] = version_id
        return {"time": "2026-01-01T00:00:00Z", "detail": {"bucket": {"name": BUCKET}, "object": entry}}

    # S3
    def head_object(self, **_: Any) -> dict[str, Any]:
        if not self.versions:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        content, version_id, _sequencer = self.versions[-1]
        found: dict[str, Any] = {"ETag": f'"{etag(content)}"', "ContentLength": 1}
        return {**found, "VersionId": version_id} if self.versioned else found

    # DynamoDB
    def get_paginator(self, _: str) -> World:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Items": list(self.table.values())}]

    def put_item(self, *, Item: dict[str, Any], **_: Any) -> None:  # noqa: N803 - as botocore names it
        place = Item["object"]["S"], Item["version"]["S"]
        old = self.table.get(place)
        if old is not None:
            newer = old["sequencer"]["S"] < Item["sequencer"]["S"]
            same = old["sequencer"] == Item["sequencer"] and old["status"]["S"] != "SUCCEEDED"
            if not newer and not (same and old.get("reason") != Item.get("reason", {"S": ""})):
                raise ClientError({"Error": {"Code": "ConditionalCheckFailedException"}}, "PutItem")
        self.table[place] = Item

    def planner(self, **wanted: Any) -> Planner:
        clients: dict[str, Any] = {"s3": self, "dynamodb": self}
        return Planner(**clients, bucket=BUCKET, table="results", wanted=Wanted(**{**WANTED, **wanted}))

    def plan(self, model: str = "m1", **wanted: Any) -> list[dict[str, Any]]:
        return self.planner(models=[model], **wanted).plan([HERE], "run")["messages"]

    def score(self, event: dict[str, Any], model: str = "m1", status: str = "SUCCEEDED") -> Item | None:
        """Do what the stages do with a message: read what it is about, and write the row."""
        item = Item.from_message({"message_id": "1", "body": json.dumps(event)})
        if item.version_id is None and item.etag != etag(self.versions[-1][0]):
            return None  # superseded
        content = next(c for c, v, _ in reversed(self.versions) if v == (item.version_id or "null"))
        attributes = row(
            item,
            status=status,
            model_version=model,
            inference="cpu",
            recorded_at="",
            prediction={"S": content} if status == "SUCCEEDED" else None,
            reason=None if status == "SUCCEEDED" else "why",
        )
        client: Any = self
        put_row(client, "results", attributes)
        return item

    def rows(self, model: str) -> list[dict[str, Any]]:
        return [one for one in self.table.values() if one["model_version"]["S"] == model]


def etag(content: str) -> str:
    return md5(content.encode()).hexdigest()  # noqa: S324 - S3's


@pytest.fixture(params=[False, True], ids=["unversioned", "versioned"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def test_an_object_without_rows_is_scored_once(world: World) -> None:
    world.put("one")
    (message,) = world.plan()
    assert message["message_id"] == "run-0"
    assert message["receive_count"] == "1"
    world.score(message["body"])
    assert world.plan() == []
    (found,) = world.rows("m1")
    assert found["prediction"] == {"S": "one"}


def test_an_object_that_an_event_has_scored_is_skipped(world: World) -> None:
    world.score(world.put("one"))
    assert world.planner().plan([HERE], "run") == {"messages": [], "listed": 1, "left_out": 0, "skipped": 1, "gone": 0}


def test_a_new_model_scores_the_same_item(world: World) -> None:
    first = world.score(world.put("one"))
    (message,) = world.plan("m2")
    second = world.score(message["body"], "m2")
    assert first is not None
    assert second is not None
    assert second.id == first.id
    assert second.sequencer == first.sequencer


def test_an_event_that_was_lost_is_made_up_for(world: World) -> None:
    world.score(world.put("one"))
    world.put("two")
    (message,) = world.plan()
    world.score(message["body"])
    assert max(world.rows("m1"), key=lambda one: one["sequencer"]["S"])["prediction"] == {"S": "two"}
    assert len(world.rows("m1")) == (2 if world.versioned else 1)


def test_an_event_that_comes_late_wins_over_the_backfill(world: World) -> None:
    late = world.put("one")
    (message,) = world.plan()
    world.score(message["body"])
    world.score(late)
    (found,) = world.rows("m1")
    assert found["sequencer"]["S"] == late["detail"]["object"]["sequencer"].lower().ljust(32, "0")


def test_an_older_backfill_never_overwrites_a_newer_event(world: World) -> None:
    world.put("one")
    (message,) = world.plan()
    world.score(world.put("two"))
    newest = dict(world.table)
    world.score(message["body"])
    assert all(world.table[place] == one for place, one in newest.items())


@pytest.mark.parametrize(
    ("status", "again", "planned"), [("FAILED", [], 1), ("REJECTED", [], 0), ("REJECTED", ["REJECTED"], 1)]
)
def test_what_failed_is_scored_again_and_what_was_rejected_on_request(
    world: World, status: str, again: list[str], planned: int
) -> None:
    world.score(world.put("one"), status=status)
    messages = world.plan(again=again)
    assert len(messages) == planned
    for message in messages:
        world.score(message["body"])
        (found,) = world.rows("m1")
        assert found["status"] == {"S": "SUCCEEDED"}


def test_an_object_that_is_gone_is_counted_and_not_sent(world: World) -> None:
    assert world.planner().plan([HERE], "run")["gone"] == 1


def test_another_error_of_s3_fails_the_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "403"}}, "HeadObject")

    monkeypatch.setattr(world, "head_object", denied)
    with pytest.raises(ClientError, match="403"):
        world.plan()


@pytest.mark.parametrize(
    ("listed", "wanted", "key"),
    [
        ({"Key": "in/a+b%2B%C3%BC"}, {"encoded": True}, "in/a b+ü"),
        ({"Key": "in/a+b%2B"}, {}, "in/a+b%2B"),
        ({"Key": "out/a"}, {}, None),
        ({"Key": "in/a.JPG"}, {"suffixes": [".jpg"]}, "in/a.JPG"),
        ({"Key": "in/a.png"}, {"suffixes": [".jpg"]}, None),
        ({"Key": "in/a", "IsLatest": "false"}, {}, None),
        ({"Key": "in/a", "IsLatest": "true", "IsDeleteMarker": "true"}, {}, None),
        ({"Key": "in/a", "LastModified": 1767225600}, {"since": datetime(2026, 1, 1, tzinfo=UTC)}, "in/a"),
        ({"Key": "in/a", "LastModified": 1767225599}, {"since": datetime(2026, 1, 1, tzinfo=UTC)}, None),
        (
            {"Key": "in/a", "LastModifiedDate": "2025-12-31T23:59:59.000Z"},
            {"since": datetime(2026, 1, 1, tzinfo=UTC)},
            None,
        ),
        ({"Key": "in/a"}, {"since": datetime(2026, 1, 1, tzinfo=UTC)}, "in/a"),
    ],
)
def test_listings_and_inventories_are_read(listed: dict[str, Any], wanted: dict[str, Any], key: str | None) -> None:
    assert Wanted(**{**WANTED, **wanted}).key(listed) == key


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc")),
        st.tuples(st.just("plan"), st.sampled_from(["m1", "m2"])),
        st.tuples(st.just("deliver"), st.integers(0, 9)),
    ),
    max_size=25,
)


@given(versioned=st.booleans(), steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_whatever_the_order_the_newest_object_has_one_row_at_the_end(versioned: bool, steps: list[Any]) -> None:
    """Events get lost, come late and twice; plans of backfills are carried out late; a last backfill puts it right."""
    world = World(versioned)
    world.put("a")
    messages: list[tuple[dict[str, Any], str]] = []
    for step, argument in steps:
        if step == "put":
            event = world.put(argument)
            messages += [(event, "m1"), (event, "m2")]
        elif step == "plan":
            messages += [(message["body"], argument) for message in world.plan(argument)]
        elif messages:
            world.score(*messages[argument % len(messages)])
        for one in world.table.values():  # a row is about what it says that it is about
            assert etag(one["prediction"]["S"]) == one["etag"]["S"]
    content, version_id, _ = world.versions[-1]
    for model in ("m1", "m2"):
        for message in world.plan(model):
            world.score(message["body"], model)
        rows = world.rows(model)
        assert {one["version"]["S"] for one in rows} <= {f"{v}#{model}" for _, v, _ in world.versions}
        (current,) = [one for one in rows if one["version"]["S"] == f"{version_id}#{model}"]
        assert current["prediction"] == {"S": content}
        assert world.plan(model) == []


def test_bytes_that_were_scored_before_the_bucket_had_versions_are_skipped() -> None:
    world = World(versioned=False)
    world.score(world.put("one"))
    world.versioned = True
    world.put("one")
    assert world.plan() == []
    world.put("two")
    assert len(world.plan()) == 1
