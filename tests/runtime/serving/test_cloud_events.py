"""CloudEvents over HTTP: what the SDK writes is read, in each mode, and what no sender may write is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.serving import events

from inference_runtime.serving.cloud_events import BATCHED, STRUCTURED, MalformedEventError, UnknownFormatError
from inference_runtime.serving.cloud_events import CloudEvent as Read
from inference_runtime.serving.cloud_events import read_events as read

BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def read_events(headers: dict[str, str], body: bytes) -> tuple[list[Any], bool]:
    """As the server reads them; tests say which of them are malformed."""
    return read(headers, body)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)
words = st.text("abcxyz019", min_size=1, max_size=9)
times = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))
attributes = st.fixed_dictionaries(
    {"id": texts, "source": texts, "type": texts, "time": times}, optional={"subject": texts}
)
json_values = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=4)


def lower(message: http.HTTPMessage) -> dict[str, str]:
    return {name.lower(): value for name, value in message.headers.items()}


@given(attributes, st.binary(min_size=1) | texts | json_values.filter(bool), st.booleans())
def test_what_the_sdk_writes_is_read_in_every_mode(given_: dict[str, Any], data: Any, more: bool) -> None:
    kind = {bytes: "image/png", str: "text/plain"}.get(type(data), "application/json")
    extension = {"extension": "x" * 9} if more else {}
    event = CloudEvent({**given_, **extension, "datacontenttype": kind}, data)
    binary, structured = http.to_binary_event(event), http.to_structured_event(event)
    whole = events.batch(event, event)

    [one], is_batch = read_events(lower(binary), binary.body)
    [other], _ = read_events(lower(structured), structured.body)
    two, is_batched = read_events(lower(whole), whole.body)

    assert (is_batch, is_batched) == (False, True)
    for found in (one, other, *two):
        assert (found.id, found.source, found.type) == (given_["id"], given_["source"], given_["type"])
        assert found.subject == given_.get("subject")
        assert datetime.fromisoformat(found.time) == given_["time"]
        if isinstance(data, dict):
            assert found.json == data
        else:
            assert found.data == (data if isinstance(data, bytes) else data.encode())


@given(st.binary(), st.dictionaries(words.map("ce-{}".format), st.text(max_size=9), max_size=4), st.booleans())
def test_any_request_is_read_or_refused(body: bytes, headers: dict[str, str], structured: bool) -> None:
    kind = {"content-type": STRUCTURED} if structured else BINARY
    with suppress(MalformedEventError, UnknownFormatError):
        read_events({**headers, **kind}, body)


def test_the_content_type_decides_the_mode_and_bytes_stay_as_they_are() -> None:
    [event], _ = read_events({**BINARY, "content-type": STRUCTURED}, json.dumps({**GOOD, "id": "of the body"}).encode())
    assert (event.id, event.data) == ("of the body", None)
    [event], _ = read_events({**BINARY, "content-type": "application/json"}, b'{"a" : 1}')
    assert event.data == b'{"a" : 1}'
    [event], _ = read_events({**BINARY, "ce-subject": '"a \\"b\\" c%E2%82%AC"'}, b"")
    assert (event.subject, event.data) == ('a "b" c€', None)
    given_ = {**GOOD, "data": "text", "datacontenttype": "application/json", "subject": None}
    [event], _ = read_events({"content-type": f"{STRUCTURED}; charset=UTF-8"}, json.dumps(given_).encode())
    assert (event.data, event.subject) == (b'"text"', None)
    assert read_events({"content-type": BATCHED}, b"[]") == ([], True)


NOT_VALID: dict[str, list[object]] = {
    **{name: [None, "", 25, {"xyz": "abc"}] for name in ("id", "source", "type")},
    "specversion": [None, "", "0.3", "0.9", 1.0],
    "time": ["", 7, "lunchtime", "2018-04-05T18:31Z", "2018-04-05T18:31:00", "2018-04-05T18:31:00X"]
    + [f"2018-04-05T18:31:00{offset}" for offset in ("+25:00", "+xx:00", "+05")],
    "datacontenttype": ["", "xyz", 7],
    "dataschema": [""],
    "subject": [""],
    "MyExtension": ["bad"],
    "my.extension": ["bad"],
    "extension": [1.5, ["bad"], {}],
}
"""Values that the kit of https://github.com/cloudevents/conformance calls invalid, and their like, by attribute."""

VALID: list[dict[str, object]] = [
    {},
    {"datacontenttype": None, "dataschema": None, "subject": None, "time": None},
    *({"time": f"2018-04-05T17:31:00{end}"} for end in ("Z", ".000000000Z", "+01:00", "-01:00")),
    {"source": "#fragment", "dataschema": "https://cloudevents.io/dataschema"},
    {"extinteger": 10, "extboolean": True, "extstring": "text", "extbinary": "TWE="},
    {"datacontenttype": "text/plain; charset=utf-8", "data": "Simple text"},
]


@pytest.mark.parametrize("changes", VALID)
def test_what_the_conformance_kit_calls_valid_is_read(changes: dict[str, object]) -> None:
    value = {**GOOD, **changes}
    [one], _ = read_events({"content-type": STRUCTURED}, json.dumps(value).encode())
    [_, other], _ = read_events({"content-type": BATCHED}, json.dumps([GOOD, value]).encode())
    assert (one.id, other.source) == (value["id"], value["source"])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NOT_VALID.items() for value in values])
def test_what_the_conformance_kit_calls_invalid_is_refused(name: str, value: object) -> None:
    event = {**GOOD, name: value}
    with pytest.raises(MalformedEventError) as refused:
        read_events({"content-type": STRUCTURED}, json.dumps(event).encode())
    # A batch has the others too, each in its place.
    batch = json.dumps([event, GOOD, "no object"]).encode()
    [wrong, good, no_object], _ = read_events({"content-type": BATCHED}, batch)
    assert isinstance(wrong, MalformedEventError)
    assert str(wrong) == str(refused.value)
    assert isinstance(good, Read)
    assert good.id == "1"
    assert str(no_object) == "event must be a JSON object, got str"


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({name: value for name, value in BINARY.items() if name != "ce-id"}, b"", "attribute id, got none"),
        ({**BINARY, "ce-specversion": "0.3"}, b"", "specversion must be 1.0, got '0.3'"),
        ({**BINARY, "ce-source": ""}, b"", "source must be a string that is not empty"),
        ({**BINARY, "ce-id": "\xe9"}, b"", "ce-id must be percent-encoded"),
        ({**BINARY, "ce-id": "100%"}, b"", "ce-id must be percent-encoded"),
        ({**BINARY, "ce-id": "%ff"}, b"", "ce-id must be UTF-8"),
        ({**BINARY, "ce-time": "yesterday"}, b"", "time must be a timestamp"),
        ({**BINARY, "ce-time": "2026-02-30T00:00:00Z"}, b"", "time must be a timestamp"),
        ({**BINARY, "ce-my_name": "x"}, b"", "attribute name must be"),
        ({"content-type": STRUCTURED}, b"{", "body must be JSON"),
        ({"content-type": STRUCTURED}, b"[" * 100_000, "body must be JSON"),
        ({"content-type": STRUCTURED}, b"[]", "event must be a JSON object, got list"),
        ({"content-type": BATCHED}, b"{}", "body must be an array of events, got dict"),
        ({"content-type": STRUCTURED}, json.dumps({**GOOD, "id": 7}).encode(), "id must be a string"),
        ({"content-type": STRUCTURED}, json.dumps({**GOOD, "id": "\ud800"}).encode(), "id must be valid Unicode"),
        ({"content-type": STRUCTURED}, json.dumps({**GOOD, "id": "a\0"}).encode(), "id must be without control char"),
        ({**BINARY, "ce-subject": "a%0Ab"}, b"", r"subject must be without control characters, got 'a\\nb'"),
        ({"content-type": STRUCTURED}, json.dumps({**GOOD, "data_base64": "?"}).encode(), "must be base64"),
        ({"content-type": STRUCTURED}, json.dumps({**GOOD, "data": 1, "data_base64": ""}).encode(), "got both"),
    ],
)
def test_a_malformed_event_is_refused(headers: dict[str, str], body: bytes, message: str) -> None:
    with pytest.raises(MalformedEventError, match=message):
        read_events(headers, body)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "application/cloudevents+avro"},
        {"content-type": f"{STRUCTURED}; charset=latin-1"},
        {**BINARY, "content-encoding": "gzip"},
    ],
)
def test_a_request_in_an_unknown_format_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UnknownFormatError):
        read_events(headers, json.dumps(GOOD).encode())
