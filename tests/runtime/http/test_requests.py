"""Requests of API Gateway become batches of one, and what becomes of these a response that says whose fault it is."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.invocation import Context

from inference_runtime.errors import LittleTimeError, RetryableError
from inference_runtime.http.proxy import answers_requests
from inference_runtime.http.requests import outcome
from inference_runtime.stages.answers import answers_of, plain
from inference_runtime.stages.item import Item

DONE: dict[str, Any] = {"retry": [], "unfinished": [], "failures": []}
GOOD = {"status": "SUCCEEDED", "prediction": {"sum": 3}, "model_version": "m1", "inference": "cpu", "message_id": "r1"}


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_OBJECT_BYTES", "100")


def event(body: bytes = b"[1]", kind: str | None = "application/json", *, old: bool = False, **headers: str) -> Any:
    """Return what API Gateway sends: of a REST API, whose headers are as the caller wrote them, or of an HTTP API."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {} if kind is None else {"Content-Type" if old else "content-type": kind}
    said: dict[str, Any] = {
        "apiId": "abc",
        "requestId": "r1",
        ("requestTimeEpoch" if old else "timeEpoch"): 1767323045000,
    }
    content = {"body": base64.b64encode(body).decode(), "isBase64Encoded": True} if body else {"body": None}
    return {"headers": named, "requestContext": said, **content}


class Handler:
    """A handler of batches that keeps what it was given."""

    def __init__(self, result: object = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._result = {**DONE, "answers": [GOOD]} if result is None else result

    def __call__(self, given: dict[str, Any], context: Any) -> Any:
        self.events.append(given)
        self.seconds = context.get_remaining_time_in_millis() / 1000
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def respond(self, request: dict[str, Any], context: object = None) -> tuple[int, Any]:
        response: Any = answers_requests(self)(request, context)
        assert response["headers"]["content-type"] == "application/json"
        return response["statusCode"], json.loads(response["body"])


@pytest.mark.parametrize(("old", "origin"), [(True, "https://shop.example.com"), (True, None), (False, "*")])
def test_pages_read_when_to_try_again_if_an_origin_may(
    *, old: bool, origin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if origin is not None:
        monkeypatch.setenv("API_ALLOW_ORIGIN", origin)
    request = {**event(old=old), "version": "1.0" if old else "2.0"}
    response: Any = answers_requests(Handler(RetryableError("busy")))(request, None)
    headers = response["headers"]
    assert (response["statusCode"], headers["retry-after"]) == (503, "1")
    if old and origin is not None:
        assert headers["access-control-allow-origin"] == origin
        assert "Retry-After" in headers["access-control-expose-headers"].split(",")
    else:  # API Gateway adds the headers of an HTTP API itself
        assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize("old", [False, True])
def test_a_prediction_is_the_answer(*, old: bool) -> None:
    handler = Handler()
    assert handler.respond(event(old=old)) == (
        200,
        {"prediction": {"sum": 3}, "model_version": "m1", "inference": "cpu"},
    )
    assert handler.events[0]["answers"] == "only"


@given(st.binary(min_size=1, max_size=100), st.booleans())
def test_whatever_bytes_are_sent_reach_the_preprocessing(data: bytes, old: bool) -> None:
    handler = Handler()
    handler.respond(event(data, "image/jpeg", old=old))
    (message,) = handler.events[0]["messages"]
    item = Item.from_message(message)
    assert (item.payload, item.size, item.bucket, item.key) == (data, len(data), "apigateway:abc", "r1")
    assert item.event_time == "2026-01-02T03:04:05.000+00:00"


def test_a_text_reaches_the_preprocessing_in_utf_8() -> None:
    handler = Handler()
    handler.respond({**event(), "body": '["ü"]', "isBase64Encoded": False})
    assert Item.from_message(handler.events[0]["messages"][0]).payload == '["ü"]'.encode()


@pytest.mark.parametrize("old", [False, True])
def test_a_key_gives_the_request_a_row(*, old: bool) -> None:
    handler = Handler()
    handler.respond(event(old=old, **{"Idempotency_Key" if old else "idempotency_key": "a b"}))
    assert handler.events[0]["answers"] == "rows"
    assert Item.from_message(handler.events[0]["messages"][0]).key == "a b"


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
def test_a_key_that_is_none_fails(key: str) -> None:
    handler = Handler()
    status, answer = handler.respond(event(idempotency_key=key))
    assert (status, handler.events) == (400, [])
    assert answer["message"] == "Idempotency-Key must be 1 to 255 printable ASCII characters"


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (event(b""), 400, "the request must have a body"),
        (event(b"x" * 101), 413, "the body must be at most 100 bytes, got 101"),
        (event(b"{"), 400, "the body must be JSON: Expecting property name"),
        (event(b"[" * 100), 400, "the body must be JSON: "),
        (event(b"\xff", "application/json; charset=utf-8"), 400, "the body must be JSON: "),
        (event(b"a", "text/csv"), 415, "Content-Type must be application/json or image/png, got text/csv"),
        (event(b"a", None), 415, "Content-Type must be application/json or image/png, got none"),
    ],
)
def test_what_preprocessing_need_not_see_is_refused(
    monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], status: int, message: str
) -> None:
    monkeypatch.setenv("API_CONTENT_TYPES", "application/json image/png")
    handler = Handler()
    found, answer = handler.respond(request_)
    assert (found, handler.events) == (status, [])
    assert answer["message"].startswith(message)


@pytest.mark.parametrize(
    ("result", "status", "message"),
    [
        ({"answers": [{**GOOD, "status": "REJECTED", "reason": "too dark"}]}, 422, "too dark"),
        ({"answers": [{**GOOD, "status": "FAILED", "reason": "NaN"}]}, 500, "NaN"),
        ({"answers": [], "failures": [{"error": "ValueError", "cause": "secret"}]}, 500, "Internal Server Error"),
        ({"answers": [], "failures": [{"error": "TookTooLongError", "cause": "slow"}]}, 504, "the request took"),
        ({"answers": []}, 500, "Internal Server Error"),
        ({"answers": [], "retry": ["r1"]}, 503, "a service that is needed"),
        ({"answers": [], "unfinished": ["r1"]}, 504, "the request took"),
        (RetryableError("no S3"), 503, "a service that is needed"),
        (LittleTimeError("late"), 504, "the request took"),
    ],
)
def test_the_status_says_whose_fault_it_is(result: Any, status: int, message: str) -> None:
    handler = Handler(result if isinstance(result, Exception) else {**DONE, **result})
    found, answer = handler.respond(event())
    assert found == status
    assert answer["message"].startswith(message)


def test_a_crash_is_the_function_s_error() -> None:
    with pytest.raises(ZeroDivisionError):
        Handler(ZeroDivisionError()).respond(event())


@pytest.mark.parametrize(("has", "left"), [(40, 28), (5, 5)])
def test_an_answer_is_there_before_the_api_stops_waiting(has: float, left: float) -> None:
    handler = Handler()
    handler.respond(event(), Context(has))
    assert handler.seconds == pytest.approx(left, abs=1)


def test_other_events_are_for_the_handler() -> None:
    handler = Handler()
    assert answers_requests(handler)({"messages": []}, Context(1)) == {**DONE, "answers": [GOOD]}


def test_an_answer_has_the_values_of_the_row() -> None:
    attribute = {
        "M": {"n": {"N": "1"}, "f": {"N": "1.0"}, "e": {"N": "1E-7"}, "l": {"L": [{"BOOL": True}, {"NULL": True}]}}
    }
    found = plain({"M": {**attribute["M"], "b": {"B": b"\xff"}, "s": {"S": "ü"}}})
    assert found == {"n": 1, "f": 1.0, "e": 1e-7, "l": [True, None], "b": "/w==", "s": "ü"}
    assert isinstance(found["f"], float)
    assert answers_of([], {}, {"model_version": "m1", "inference": "none"}) == []


def test_a_prediction_that_no_workflow_takes_is_an_error() -> None:
    result = {**DONE, "answers": [{**GOOD, "prediction": {"text": "x" * 100}}]}
    assert outcome(result)[0] == 200
    status, answer = outcome(result, most_bytes=100)
    assert status == 500
    assert re.fullmatch(r"the prediction is \d+ bytes as JSON, at most 100 fit a workflow", answer["message"])
