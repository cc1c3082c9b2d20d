"""Events of each cloud as messages of the handler, and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings import http
from tests.runtime.serving import events

from inference_runtime.serving.cloud_events import MalformedEventError, read_events
from inference_runtime.serving.messages import message_of
from inference_runtime.stages.item import Item

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

ETAG = "9f620878e06d28774406017480a59fd4"
QUEUED = {
    "message_id": "m",
    "time": events.TIME,
    "detail": {
        "bucket": {"name": "inbox"},
        "object": {"key": "a b/é", "size": 3, "etag": ETAG, "sequencer": "0055AED6DCD90281E5", "version-id": "v1"},
    },
}


def message(event: CloudEvent, buckets: tuple[str, ...] = ("inbox",)) -> dict[str, Any] | None:
    sent = http.to_structured_event(event)
    [found], _ = read_events({name.lower(): value for name, value in sent.headers.items()}, sent.body)
    return message_of(found, "m", buckets)


def item(event: CloudEvent) -> Item:
    found = message(event)
    assert found is not None
    return Item.from_message(found)


def test_objects_of_google_are_items_in_the_order_of_their_generations() -> None:
    first = item(events.google("inbox", "a b/é", 3, generation=999_999))
    second = item(events.google("inbox", "a b/é", 3, generation=1_000_000))
    assert (first.bucket, first.key, first.version_id, first.size) == ("inbox", "a b/é", "999999", 3)
    assert first.sequencer < second.sequencer
    assert first.id != second.id


def test_blobs_of_azure_are_items_in_the_order_of_their_sequencers() -> None:
    blob = item(events.azure("inbox", "a b/é", 3, "0x8D4BCC2E4835CD0"))
    longer = "000000000000000000000000000004420000000000028964"
    later = item(events.azure("inbox", "a b/é", 3, "0x8D4BCC2E4835CD0", sequencer=longer))
    assert (blob.bucket, blob.key, blob.version_id, blob.etag) == ("inbox", "a b/é", None, "0x8D4BCC2E4835CD0")
    assert blob.sequencer < later.sequencer
    assert message(events.azure("inbox", "a", 0, "0x1", api="CreateFile")) is None


def test_objects_of_s3_and_minio_are_the_items_of_the_pipeline() -> None:
    expected = Item.from_message(QUEUED)
    assert item(events.eventbridge(QUEUED)).id == expected.id
    escaped = {**QUEUED, "detail": {**QUEUED["detail"], "object": {**QUEUED["detail"]["object"], "key": "a+b/%C3%A9"}}}
    for source in ("aws:s3", "minio:s3"):
        assert item(events.notification(escaped, source)).id == expected.id
    suspended = {**escaped, "detail": {**escaped["detail"], "object": {**escaped["detail"]["object"]}}}
    del suspended["detail"]["object"]["version-id"]
    assert item(events.notification(suspended)).version_id is None


def test_data_are_items_that_a_redelivery_repeats() -> None:
    first, again = (item(events.event("reading", {"a": 1}, source="/cameras/7", id="42")) for _ in range(2))
    assert (first.bucket, first.key, first.payload) == ("cloudevents:/cameras/7", "42", b'{"a":1}')
    assert first.id == again.id
    assert item(events.event("reading", b"\x00\xff")).payload == b"\x00\xff"
    assert item(events.event("reading", None)).size == 0


def test_without_a_store_data_of_the_form_of_s3_are_data() -> None:
    found = message(events.eventbridge(QUEUED), ())
    assert found is not None
    assert Item.from_message(found).bucket == "cloudevents:/tests"


@pytest.mark.parametrize(
    "event",
    [
        events.event("google.cloud.storage.object.v1.deleted", {}),
        events.event("Microsoft.Storage.BlobDeleted", {}),
        events.notification(QUEUED, name="s3:ObjectRemoved:Delete"),
    ],
)
def test_objects_that_were_not_written_are_ignored(event: CloudEvent) -> None:
    assert message(event) is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (events.google("other", "a", 1), "bucket must be inbox, got 'other'"),
        (events.azure("other", "a", 1, "0x1"), "bucket must be inbox, got 'other'"),
        (events.google("inbox", "a", 1, generation=10**20), "generation and size in digits"),
        (events.azure("inbox", "a", 1, "0x1", sequencer=None), "must have a sequencer"),
        (events.event("Microsoft.Storage.BlobCreated", {}, subject="/elsewhere"), "subject must name a container"),
        (events.event("google.cloud.storage.object.v1.finalized", "text"), "data must be a JSON object, got str"),
        (events.event("google.cloud.storage.object.v1.finalized", None), "data must be JSON"),
        (events.event("reading", {}, source="/" + "x" * 1000), "source must be at most 1,000 bytes"),
        (events.event("x", {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}), "notification"),
        (events.event("x", {"source": "aws.s3", "detail-type": "Object Created", "detail": {}}), "bucket must be"),
    ],
)
def test_an_event_that_names_no_object_of_these_buckets_is_refused(event: CloudEvent, expected: str) -> None:
    with pytest.raises(MalformedEventError, match=expected):
        message(event)
