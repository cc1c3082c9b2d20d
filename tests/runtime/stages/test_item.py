"""Items: what identifies an object version, and how its events are ordered."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.errors import MalformedMessageError
from inference_runtime.stages.item import Item, message_id_of, pad_sequencer

hex_digits = st.text("0123456789abcdefABCDEF", min_size=1, max_size=32)


def message(**entry: Any) -> dict[str, Any]:
    return {
        "message_id": "m",
        "time": "2026-01-02T03:04:05Z",
        "detail": {
            "bucket": {"name": "photos"},
            "object": {"key": "a.jpg", "size": 7, "etag": "e1", "sequencer": "00AB", **entry},
        },
    }


def test_an_event_becomes_an_item() -> None:
    item = Item.from_message(message())
    assert (item.bucket, item.key, item.version_id, item.etag, item.size) == ("photos", "a.jpg", None, "e1", 7)
    assert item.event_time == "2026-01-02T03:04:05Z"
    assert item.message_id == "m"
    assert item.sequencer == "00ab" + "0" * 28


def test_the_detail_may_be_json_text() -> None:
    plain = message()
    assert Item.from_message({**plain, "detail": json.dumps(plain["detail"])}) == Item.from_message(plain)


def forms(plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The message as pipes with and without an input template bring it."""
    event = {"version": "0", "source": "aws.s3", "time": plain["time"], "detail": plain["detail"]}
    text = json.dumps(event)
    record = {"receiptHandle": "r", "attributes": {"ApproximateReceiveCount": "1"}, "eventSource": "aws:sqs"}
    return {
        "body": {"message_id": "m", "body": event},
        "body as text": {"message_id": "m", "body": text},
        "body and detail as text": {
            "message_id": "m",
            "body": json.dumps({**event, "detail": json.dumps(plain["detail"])}),
        },
        "record of SQS": {"messageId": "m", **record, "body": text},
        "record of SQS with its body parsed": {"messageId": "m", **record, "body": event},
    }


@pytest.mark.parametrize("form", forms(message()))
def test_the_event_may_be_the_body(form: str) -> None:
    assert Item.from_message(forms(message())[form]) == Item.from_message(message())


@pytest.mark.parametrize(
    "body", [None, 7, [], {}, "", "{", "null", '"text"', "[" * 100_000, {"detail": {}}, message()["detail"]]
)
def test_a_body_that_is_no_event_fails(body: Any) -> None:
    with pytest.raises(MalformedMessageError):
        Item.from_message({"message_id": "m", "body": body})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"message_id": "m"}, "m"),
        ({"messageId": "m"}, "m"),
        ({"message_id": "", "messageId": "m"}, "m"),
        ({"message_id": ""}, None),
        ({"messageId": ""}, None),
        ({"message_id": 7}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_id_of_a_message(found: Any, expected: str | None) -> None:
    assert message_id_of(found) == expected


def test_keys_are_taken_as_they_are() -> None:
    assert Item.from_message(message(key="a+b%20c%2Bd ß.jpg")).key == "a+b%20c%2Bd ß.jpg"


def test_it_survives_json() -> None:
    item = Item.from_message(message(**{"version-id": "v1"}))
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_the_id_tells_events_apart_but_not_deliveries() -> None:
    first = Item.from_message(message())
    again = Item.from_message({**message(), "message_id": "other", "time": "2026-01-02T03:04:06Z"})
    assert first.id == again.id
    others = [message(key="b.jpg"), message(etag="e2"), message(sequencer="00AC"), message(**{"version-id": "v1"})]
    assert len({first.id, *(Item.from_message(other).id for other in others)}) == 5


def test_the_id_of_a_version_does_not_depend_on_its_event() -> None:
    one = Item.from_message(message(**{"version-id": "v1", "sequencer": "1"}))
    two = Item.from_message(message(**{"version-id": "v1", "sequencer": "2"}))
    assert one.id == two.id


def test_the_version_of_a_suspended_bucket_is_none() -> None:
    assert Item.from_message(message(**{"version-id": "null"})).version_id is None


@given(
    st.integers(1, 32).flatmap(lambda n: st.tuples(*[st.text("0123456789abcdefABCDEF", min_size=n, max_size=n)] * 2))
)
def test_sequencers_of_one_length_are_ordered_as_numbers(pair: tuple[str, str]) -> None:
    one, two = pair
    assert (pad_sequencer(one) < pad_sequencer(two)) == (int(one, 16) < int(two, 16))
    assert (pad_sequencer(one) == pad_sequencer(two)) == (int(one, 16) == int(two, 16))


@given(hex_digits, hex_digits)
def test_sequencers_of_any_length_are_ordered_as_s3_says(one: str, two: str) -> None:
    width = max(len(one), len(two))
    documented = one.lower().ljust(width, "0") < two.lower().ljust(width, "0")
    assert (pad_sequencer(one) < pad_sequencer(two)) == documented
    assert len(pad_sequencer(one)) == 32


@pytest.mark.parametrize("sequencer", ["", "g", "0x1", " 1", "1\n", "٣", "1" * 33])
def test_a_sequencer_that_is_not_hex_fails(sequencer: str) -> None:
    with pytest.raises(MalformedMessageError, match="sequencer"):
        Item.from_message(message(sequencer=sequencer))


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"size": -1}, "size"),
        ({"size": True}, "size"),
        ({"size": "7"}, "size"),
        ({"size": 1.5}, "size"),
        ({"size": float("inf")}, "size"),
        ({"size": None}, "size"),
        ({"size": 2**63}, "size"),
        ({"size": 1e30}, "size"),
        ({"key": ""}, "key"),
        ({"key": None}, "key"),
        ({"key": 7}, "key"),
        ({"key": "\ud800"}, "key"),
        ({"etag": None}, "etag"),
        ({"version-id": 3}, "version-id"),
    ],
)
def test_a_wrong_member_fails_and_is_named(broken: dict[str, Any], named: str) -> None:
    with pytest.raises(MalformedMessageError, match=named):
        Item.from_message(message(**broken))


@pytest.mark.parametrize("detail", [None, 7, [], {}, "", "{", "null", "[" * 100_000, {"bucket": "photos"}])
def test_a_message_without_a_usable_detail_fails(detail: Any) -> None:
    with pytest.raises(MalformedMessageError):
        Item.from_message({**message(), "detail": detail})


def test_a_whole_number_as_float_is_a_size() -> None:
    assert Item.from_message(message(size=7.0)).size == 7


QUEUE = "arn:aws:sqs:eu-central-1:123456789012:orders"


def payload(body: Any = "text", **item: Any) -> dict[str, Any]:
    return {
        "message_id": "m",
        "body": body,
        "item": {"source": QUEUE, "id": "o1", "sequence": "42", "time": "1767323045000", **item},
    }


@pytest.mark.parametrize(
    ("source", "bucket"),
    [
        (QUEUE, "sqs:orders"),
        ("arn:aws-cn:kinesis:cn-north-1:123456789012:stream/clicks", "kinesis:clicks"),
        ("arn:aws:dynamodb:us-east-1:123456789012:table/users/stream/2026-01-02T03:04:05.678", "dynamodb:users"),
    ],
)
def test_a_payload_becomes_an_item(source: str, bucket: str) -> None:
    item = Item.from_message(payload(source=source))
    assert (item.bucket, item.key, item.version_id, item.size) == (bucket, "o1", None, 4)
    assert item.payload == b"text"
    assert item.event_time == "2026-01-02T03:04:05.000+00:00"
    assert item.message_id == "m"
    assert "payload" not in item.to_json()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_payload_of_json_is_written_anew(body: Any) -> None:
    item = Item.from_message(payload(body))
    assert item.payload is not None
    assert (item.payload.decode() if isinstance(body, str) else json.loads(item.payload)) == body
    assert item.size == len(item.payload)


@given(st.integers(0, 10**64 - 1), st.integers(0, 10**64 - 1))
def test_sequence_numbers_sort_as_texts(one: int, other: int) -> None:
    first, second = (Item.from_message(payload(sequence=str(number))) for number in (one, other))
    assert (first.sequencer < second.sequencer) == (one < other)
    assert (first.id == second.id) == (one == other)


@pytest.mark.parametrize(
    "item",
    [
        {"source": ""},
        {"source": "orders"},
        {"id": ""},
        {"id": 7.5},
        {"id": True},
        {"id": None},
        {"id": "ä" * 513},
        {"id": "\ud800"},
        {"sequence": ""},
        {"sequence": "-1"},
        {"sequence": "1e3"},
        {"sequence": "1" * 65},
        {"time": None},
    ],
)
def test_a_payload_without_a_proper_id_fails(item: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessageError):
        Item.from_message(payload(**item))


@pytest.mark.parametrize("item", [None, 7, [], {}, "o1"])
def test_an_item_that_is_none_fails(item: Any) -> None:
    with pytest.raises(MalformedMessageError):
        Item.from_message({**payload(), "item": item})


def test_a_payload_that_is_not_unicode_fails() -> None:
    with pytest.raises(MalformedMessageError, match="body is not valid Unicode"):
        Item.from_message(payload("\ud800"))


STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/users/stream/2026-01-02T03:04:05.678"


@pytest.mark.parametrize("time", ["1767323045", "1767323045.0", "1767323045000", "1.767323045E9"])
def test_a_time_may_be_in_seconds_or_milliseconds(time: str) -> None:
    assert Item.from_message(payload(time=time)).event_time == "2026-01-02T03:04:05.000+00:00"


def test_a_time_that_no_calendar_has_fails() -> None:
    with pytest.raises(MalformedMessageError, match=r"item\.time"):
        Item.from_message(payload(time="1E99"))


@given(st.binary(max_size=100))
def test_data_that_is_not_json_comes_in_base64(data: bytes) -> None:
    item = Item.from_message(payload(base64.b64encode(data).decode(), encoding="base64"))
    assert item.payload == data


@pytest.mark.parametrize(
    ("body", "expected"), [({"a": 1}, b'{"a":1}'), (7, b"7"), (None, b"null"), ("not base64!", b"not base64!")]
)
def test_data_that_is_json_comes_as_such(body: Any, expected: bytes) -> None:
    assert Item.from_message(payload(body, encoding="base64")).payload == expected


def test_a_member_of_the_body_may_be_the_payload() -> None:
    assert Item.from_message(payload({"input": {"a": [1]}, "id": "x"}, member="input")).payload == b'{"a":[1]}'
    with pytest.raises(MalformedMessageError):
        Item.from_message(payload("text", member="input"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"id": {"S": "u1"}}, "u1"),
        ({"id": {"N": "7"}}, "7"),
        ({"id": {"N": "0.12345678901234567890123456789012345678"}}, "0.12345678901234567890123456789012345678"),
        ({"b": {"N": "7"}, "a": {"S": "x/y"}}, '{"a":"x/y","b":"7"}'),
    ],
)
def test_the_key_of_a_table_is_the_id(keys: Any, expected: str) -> None:
    message = payload({"n": {"N": "1"}}, source=STREAM, keys=keys, encoding="dynamodb")
    del message["item"]["id"]
    item = Item.from_message(message)
    assert (item.bucket, item.key, item.payload) == ("dynamodb:users", expected, b'{"n":1}')


@pytest.mark.parametrize("keys", [{}, 7, [], {"id": "u1"}, {"id": {"N": 7.5}}])
def test_keys_that_are_none_fail(keys: Any) -> None:
    with pytest.raises(MalformedMessageError, match=r"item\.(keys|id)"):
        Item.from_message(payload(source=STREAM, keys=keys))


ATTRIBUTES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**37), 10**37) | st.sampled_from([0.5, -1.25, 1e20]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), ATTRIBUTES))
def test_an_item_of_dynamodb_becomes_plain_json(item: dict[str, Any]) -> None:
    typed = {name: TypeSerializer().serialize(_decimals(value)) for name, value in item.items()}
    found = Item.from_message(payload(typed, encoding="dynamodb"))
    assert json.loads(found.payload or b"") == item


def _decimals(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(value)
    if isinstance(value, list):
        return [_decimals(each) for each in value]
    return {name: _decimals(each) for name, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("body", [None, "text", [1], {"a": 1}, {"a": {"N": "x"}}, {"a": {"X": 1}}, {"a": {}}])
def test_a_body_that_is_no_item_of_dynamodb_fails(body: Any) -> None:
    with pytest.raises(MalformedMessageError, match="not an item of DynamoDB"):
        Item.from_message(payload(body, encoding="dynamodb"))
