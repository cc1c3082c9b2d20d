"""An HTTP API in front of a fused function: what its callers get, and who may call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.triggers.callers import Caller, api_url, token, user

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.triggers.messages import Messages

pytestmark = pytest.mark.e2e

NUMBERS = {"a": 1, "b": 2, "c": 30, "d": 40}


@pytest.fixture(scope="module")
def caller(cloud: LocalCloud) -> Caller:
    """A principal that may call the API of the records."""
    return Caller(api_url(cloud, "Triggers/Records"), credentials=user(cloud, "caller"))


def test_who_asks_gets_the_prediction(caller: Caller, orders: Messages) -> None:
    before = len(orders.rows())
    status, answer, headers = caller.post("/predict", NUMBERS)
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    assert answer.keys() == {"prediction", "model_version", "inference"}
    assert headers["content-type"] == "application/json"
    assert len(orders.rows()) == before


def test_a_request_with_a_key_has_one_row(caller: Caller, orders: Messages) -> None:
    api = caller.url.split("/")[-2]
    for _ in range(2):
        status, answer, _ = caller.post("/predict", NUMBERS, idempotency_key="order 7")
        assert status == 200
    rows = [row for row in orders.all_rows() if row["bucket"] == f"apigateway:{api}"]
    assert [row["key"] for row in rows] == ["order 7"]
    assert rows[0]["prediction"]["sums"] == answer["prediction"]["sums"]
    other, answer, _ = caller.post("/predict", {**NUMBERS, "a": 5}, idempotency_key="order 7")
    assert (other, answer["prediction"]["sums"]) == (200, [7, 70])
    assert [row for row in orders.all_rows() if row["bucket"] == f"apigateway:{api}"] == rows


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "application/json", 400, "the request must have a body"),
        (b"{", "application/json", 400, "the body must be JSON: "),
        (b"1", "text/plain", 415, "Content-Type must be application/json, got text/plain"),
        (b"{}", "application/json; charset=utf-8", 422, "'a' is missing"),
        (b'{"a": 1}', "application/json", 422, "'b' is missing"),
    ],
)
def test_a_request_that_cannot_be_scored_says_why(
    caller: Caller, body: bytes, kind: str, status: int, message: str
) -> None:
    found, answer, _ = caller.post("/predict", body, kind)
    assert found == status
    assert answer["message"].startswith(message) or message in answer["message"]


def test_only_who_may_call_gets_an_answer(caller: Caller, cloud: LocalCloud, texts: Messages) -> None:
    for refused in (
        Caller(caller.url),
        Caller(caller.url, credentials=user(cloud, "sender")),
        Caller(caller.url, headers={"Authorization": "Bearer none"}),
    ):
        assert refused.post("/predict", NUMBERS)[0] == 403
    assert caller.post("/other", NUMBERS)[0] in (403, 404)


def test_a_token_of_the_user_pool_lets_in(cloud: LocalCloud, caller: Caller) -> None:
    url = api_url(cloud, "Triggers/Texts")
    bearer = token(cloud)
    allowed = Caller(url, headers={"Authorization": f"Bearer {bearer}"})
    status, answer, _ = allowed.post("/predict", b"return [1, 2, 30, 40]", "text/plain")
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    for other in (
        Caller(url),
        Caller(url, credentials=caller.credentials),
        Caller(url, headers={"Authorization": f"Bearer {bearer[:-4]}AAAA"}),
    ):
        assert other.post("/predict", b"return [1, 2, 30, 40]", "text/plain")[0] == 401


@pytest.mark.parametrize(
    ("order", "status", "message"),
    [
        (b"refuse", 422, None),
        (b"return [-1, 1, -2, 1]", 422, "the second sum is negative"),
        (b"raise", 500, "Internal Server Error"),
    ],
)
def test_what_breaks_in_a_stage_is_not_told(cloud: LocalCloud, order: bytes, status: int, message: str | None) -> None:
    caller = Caller(api_url(cloud, "Triggers/Texts"), headers={"Authorization": f"Bearer {token(cloud)}"})
    found, answer, _ = caller.post("/predict", order, "application/octet-stream")
    assert found == status
    assert message is None or answer["message"] == message


def test_a_crash_is_an_error_of_the_server(cloud: LocalCloud) -> None:
    caller = Caller(api_url(cloud, "Triggers/Texts"), headers={"Authorization": f"Bearer {token(cloud)}"})
    assert caller.post("/predict", b"exit", "text/plain")[0] >= 500
    assert caller.post("/predict", b"return [1, 2, 30, 40]", "text/plain")[0] == 200
