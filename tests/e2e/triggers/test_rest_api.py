"""A REST API in front of separate stages, and one with keys: what callers get, and who may call."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws
from tests.e2e.conftest import Watched
from tests.e2e.triggers.callers import Caller, put, rest_api_url, shop_key, user
from tests.e2e.triggers.messages import order
from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud, PipeRunner

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def caller(cloud: LocalCloud) -> Caller:
    """A principal that may call the API of the staged pipeline."""
    return Caller(rest_api_url(cloud, "Triggers/Staged"), credentials=user(cloud, "caller"))


@pytest.fixture(scope="module")
def staged(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Triggers/Staged")


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "text/plain; charset=utf-8"])
def test_who_asks_gets_the_prediction(caller: Caller, staged: Watched, kind: str) -> None:
    status, answer, headers = caller.post("/predict", b"return [1, 2, 30, 40]", kind)
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    assert answer.keys() == {"prediction", "model_version", "inference"}
    assert headers["content-type"] == "application/json"
    assert staged.all_rows() == []


def test_a_request_with_a_key_has_one_row(caller: Caller, staged: Watched) -> None:
    for body in (b"return [1, 2, 30, 40]", b"return [1, 2, 30, 40]", b"return [5, 2, 30, 40]"):
        assert caller.post("/predict", body, "text/plain", idempotency_key="order 7")[0] == 200
    (row,) = staged.all_rows()
    assert row["object"] == f"apigateway:{caller.url.split('/')[-2]}/order 7"
    assert row["prediction"]["sums"] == [3, 70]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "text/plain", 400, "the request must have a body"),
        pytest.param(b"[1]" * 70_000, "text/plain", 413, "the body must be at most 190,000 bytes", id="large"),
        (b"return [1, 2, 30, 40]", "image/png", 415, "Unsupported Media Type"),
        (b"return [-1, 1, -2, 1]", "text/plain", 422, "the second sum is negative"),
        (b'dance to "$input.body" {% $states %}', "text/plain", 422, "no such order: b'dance'"),
        (b"\xff\x00", "application/octet-stream", 422, "no such order: b'\\xff\\x00'"),
        (b"raise", "text/plain", 500, "Internal Server Error"),
        (b"exit", "text/plain", 500, "Internal Server Error"),
    ],
)
def test_a_request_that_cannot_be_scored_says_why(
    caller: Caller, body: bytes, kind: str, status: int, message: str
) -> None:
    assert caller.post("/predict", body, kind)[:2] == (status, {"message": message})


def test_a_key_that_is_none_fails(caller: Caller) -> None:
    status, answer, _ = caller.post("/predict", b"return [1]", "text/plain", idempotency_key="x" * 256)
    assert (status, answer["message"]) == (400, "Idempotency-Key must be 1 to 255 printable ASCII characters")


def test_only_who_may_call_gets_an_answer(caller: Caller, cloud: LocalCloud) -> None:
    for refused in (Caller(caller.url), Caller(caller.url, credentials=user(cloud, "sender"))):
        assert refused.post("/predict", b"return [1, 2, 30, 40]", "text/plain")[0] == 403


def test_the_api_may_start_its_workflow_and_no_other(cloud: LocalCloud, caller: Caller) -> None:
    (role,) = [one for one in cloud.resources(type="AWS::IAM::Role") if one.logical_id.startswith("StagedRestApiRole")]
    arn = cloud.client("iam").get_role(RoleName=role.physical_id)["Role"]["Arn"]
    source = f"arn:aws:execute-api:us-east-1:000000000000:{caller.url.split('/')[-2]}/prod/POST/predict"
    credentials = aws.service_credentials(cloud.endpoint, arn, service="apigateway.amazonaws.com", source_arn=source)
    client = aws.role_clients(cloud.endpoint, credentials, ["stepfunctions"])["stepfunctions"]
    machines = cloud.client("stepfunctions").list_state_machines()["stateMachines"]
    refused = 0
    for machine in machines:
        if "StagedRestApiWorkflow" not in machine["name"]:
            with pytest.raises(ClientError, match="AccessDenied"):
                client.start_sync_execution(stateMachineArn=machine["stateMachineArn"], input="[]")
            refused += 1
    assert refused == len(machines) - 1


@pytest.fixture(scope="module")
def shop(cloud: LocalCloud) -> Caller:
    """A caller with an API key."""
    return Caller(rest_api_url(cloud, "Triggers/Records"), headers={"x-api-key": shop_key(cloud)})


def test_a_key_lets_in_where_callers_are_anonymous(shop: Caller) -> None:
    numbers = {"a": 1, "b": 2, "c": 30, "d": 40}
    status, answer, _ = shop.post("/predict", numbers)
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    for headers in ({}, {"x-api-key": "other"}):
        other = Caller(shop.url, headers=headers)
        assert other.post("/predict", numbers)[0] == 403
        assert other.post("/items", numbers)[0] == 403
        assert other.get("/results/a")[0] == 403
    assert shop.post("/predict", b"1", "text/plain")[0] == 415


def test_who_does_not_wait_asks_for_the_result_later(shop: Caller, pipes: PipeRunner) -> None:
    assert shop.get("/results/http%201") == (404, {"message": "no result has this id yet"})
    text = order("http 1", 1, text='& = "ü" %41 $input.body')
    status, answer, _ = shop.post("/items", text.encode())
    assert (status, answer.keys()) == (202, {"id"})
    found: list[Any] = []

    def ended() -> bool:
        found[:] = shop.get("/results/http%201")
        return found[0] == 200

    wait_until(ended, lambda: f"no result, but {found}", every=0.5)
    assert found[1]["status"] == "SUCCEEDED"
    assert found[1]["prediction"] == {"sums": [3, 7]}
    assert found[1].keys() == {"status", "prediction", "model_version", "recorded_at", "etag"}
    sent = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")).encode()
    assert found[1]["etag"] == hashlib.sha256(sent).hexdigest()
    assert pipes.refusals == []


def test_the_result_of_a_request_with_a_key_can_be_looked_up(shop: Caller) -> None:
    shop.post("/predict", {"a": 1, "b": 2, "c": 30, "d": 40}, idempotency_key="kept")
    status, answer = shop.get("/results/kept")
    assert (status, answer["prediction"]) == (200, {"sums": [3, 70]})
    shop.post("/predict", {"a": 1}, idempotency_key="refused")
    status, answer = shop.get("/results/refused")
    assert (status, answer["status"]) == (200, "REJECTED")
    assert "'b' is missing" in answer["reason"]


def test_a_queue_refuses_an_empty_item(shop: Caller) -> None:
    assert shop.post("/items", b"")[0] == 400


def test_an_object_of_this_size_and_type_may_be_sent_once(caller: Caller, staged: Watched, pipes: PipeRunner) -> None:
    data = b"return [1, 2, 30, 40]"
    status, answer, _ = caller.post("/uploads", {"size": len(data), "content_type": "text/plain"})
    assert (status, answer.keys()) == (201, {"id", "url", "headers", "expires_at"})
    headers = answer["headers"]
    for body, other in (
        (data + b" ", {**headers, "Content-Length": str(len(data) + 1)}),
        (data, {**headers, "Content-Type": "text/html"}),
        (data, {name: value for name, value in headers.items() if name != "If-None-Match"}),
    ):
        assert put(answer["url"], body, other) == 403
    assert put(answer["url"], data, headers) == 200
    assert put(answer["url"], data, headers) == 412
    found: list[Any] = []

    def ended() -> bool:
        found[:] = caller.get(f"/results/{answer['id']}")
        return found[0] == 200

    wait_until(ended, lambda: f"no result, but {found}", every=0.5)
    assert found[1]["prediction"]["object"] == f"inbox/{answer['id']}"
    assert staged.row(f"inbox/{answer['id']}")["status"] == "SUCCEEDED"
    assert pipes.refusals == []


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        ({"size": "1", "content_type": "text/plain"}, 400),
        ({"size": 1, "content_type": "image/png"}, 415),
        ({"size": 2**40, "content_type": "text/plain"}, 413),
    ],
)
def test_an_upload_that_cannot_be_scored_is_refused(caller: Caller, asked: object, status: int) -> None:
    found, answer, _ = caller.post("/uploads", asked)
    assert (found, answer.keys()) == (status, {"message"})
