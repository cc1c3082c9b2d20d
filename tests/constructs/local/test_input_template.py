"""Input templates: the documented behaviour, and properties that hold for any message."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.local import LocalError
from cdk_inference.local.emulator.input_template import render

VARIABLES = {"aws.pipes.pipe-name": "photos", "aws.pipes.pipe-arn": "arn:aws:pipes:us-east-1:1:pipe/photos"}
PIPELINE = '{"message_id": <$.messageId>, "time": <$.body.time>, "detail": <$.body.detail>}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def record(body: object, **more: object) -> dict[str, Any]:
    return {"messageId": "m1", "body": body if isinstance(body, str) else json.dumps(body), **more}


@given(detail=json_values, message_id=st.text(), time=st.text())
def test_any_value_comes_through_unchanged(detail: object, message_id: str, time: str) -> None:
    message = {"messageId": message_id, "body": json.dumps({"time": time, "detail": detail})}
    assert render(PIPELINE, message, {}) == {"message_id": message_id, "time": time, "detail": detail}


@given(text=st.text())
def test_text_inside_a_string_comes_through_unchanged(text: str) -> None:
    assert render('"got <$.body.text>!"', record({"text": text}), {}) == f"got {text}!"


@given(text=st.text())
def test_what_a_message_brings_in_is_not_a_template_again(text: str) -> None:
    body = {"text": f"<$.body.secret>{text}", "secret": "s3cr3t"}
    assert render('{"a": <$.body.text>, "b": "<$.body.text>"}', record(body), {}) == {
        "a": body["text"],
        "b": body["text"],
    }


@given(body=json_values)
def test_the_whole_body_is_parsed(body: object) -> None:
    assert render('{"data": <$.body>}', record(json.dumps(body)), {}) == {"data": body}


@given(body=st.text())
def test_no_template_leaves_the_record_as_it_is(body: str) -> None:
    assert render(None, record(body), {}) == record(body)


def test_a_body_that_is_not_json_stays_text() -> None:
    assert render('{"data": <$.body>}', record("not {json"), {}) == {"data": "not {json"}


def test_a_path_without_a_value_gives_the_empty_string() -> None:
    assert render('{"a": <$.body.nowhere>, "b": "<$.body.nowhere>"}', record({}), {}) == {"a": "", "b": ""}


def test_reserved_variables() -> None:
    event = record({"x": 1})
    template = '{"name": <aws.pipes.pipe-name>, "event": <aws.pipes.event.json>}'
    assert render(template, event, VARIABLES) == {"name": "photos", "event": {"messageId": "m1", "body": {"x": 1}}}


def test_indices_and_wildcards() -> None:
    body = {"Records": [{"k": 1}, {"k": 2}, {"no": 3}]}
    template = '{"second": <$.body.Records[1].k>, "all": <$.body.Records[*].k>, "none": <$.body.Records[7]>}'
    assert render(template, record(body), {}) == {"second": 2, "all": [1, 2], "none": ""}


def test_an_object_inside_a_string_loses_its_quotes() -> None:
    # As AWS documents it: {"key": "value"} becomes "{key: value}".
    assert render('"body: <$.body>"', record({"key": "value"}), {}) == "body: {key: value}"


def test_a_deeply_nested_body_stays_text() -> None:
    for deep in ("[" * 201 + "]" * 201, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000):
        assert render('{"body": <$.body>}', record(deep), {}) == {"body": deep}
    flat = json.dumps({"key": "[" * 500, "other": '"' + "{" * 500, "deep": [[[["x"]]]]})
    assert render('{"body": <$.body>}', record(flat), {}) == {"body": json.loads(flat)}


def test_a_template_that_gives_no_json_fails() -> None:
    with pytest.raises(LocalError, match="must give JSON"):
        render('{"a": <$.messageId>', record({}), {})


def test_an_unknown_path_syntax_fails() -> None:
    with pytest.raises(LocalError, match=r"paths that pipes know, got '\$\.\.x'"):
        render('{"a": <$..x>}', record({}), {})


@given(data=json_values)
def test_data_that_is_json_comes_as_such(data: object) -> None:
    event = {"data": base64.b64encode(json.dumps(data).encode()).decode()}
    assert render('{"body": <$.data>}', event, {}) == {"body": data}


@given(data=st.binary())
def test_data_that_is_not_json_stays_in_base64(data: bytes) -> None:
    event = {"data": base64.b64encode(b"\xff" + data).decode()}
    assert render('{"body": <$.data>}', event, {}) == {"body": event["data"]}
