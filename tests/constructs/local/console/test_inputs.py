"""The ways to give a pipeline something: what a deployed template says of them, and what cannot be a request."""

from __future__ import annotations

from typing import Any

import pytest

from cdk_inference.local import LocalError, aws
from cdk_inference.local.console.inputs import inputs_of
from cdk_inference.local.emulator.parts import Parts
from cdk_inference.local.stacks import Resource
from cdk_inference.local.uploads import Pipeline

ENDPOINT = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(aws._keys, ENDPOINT, aws.Key())


def api(number: int, kind: str = "AWS::ApiGatewayV2::Api", **facts: Any) -> Resource:
    shared = {"path": "/predict", "api_stage": "$default", "content_types": ["image/png"], **facts}
    return Resource(stack="Shop", logical_id=f"Api{number}", physical_id=f"a{number}", type=kind, metadata=shared)


def test_each_way_has_a_name_and_says_what_it_takes() -> None:
    apis = [api(1, signed=True), api(2, signed=False), api(3, "AWS::ApiGateway::RestApi", signed=False, api_key=True)]
    for source, name in (
        ("sqs:orders", "Queue"),
        ("kinesis:clicks", "Stream"),
        ("dynamodb:users", "Table"),
        ("s3:lines", None),  # objects are uploaded
        (None, None),
    ):
        parts = Parts(queue="orders", apis=apis)
        pipeline = Pipeline(ENDPOINT, "Shop/Any", inbox=None, prefix="", table="rows", source=source, parts=parts)
        found = [each.described() for each in inputs_of(ENDPOINT, pipeline)]
        names = ["HTTP API", "HTTP API 2", "REST API"]
        assert [each["name"] for each in found] == [*([name] if name else []), *names]
        assert [each["wants_token"] for each in found[-3:]] == [False, True, False]
        assert found[-1]["content_types"] == ["image/png"]
    stream = Pipeline(ENDPOINT, "Shop/Text", inbox=None, prefix="", table=None, parts=Parts(functions={"f": "Text"}))
    assert [each.name for each in inputs_of(ENDPOINT, stream)] == ["Text stream"]


@pytest.mark.parametrize(
    ("kind", "token", "says"),
    [
        ("text/plain\r\nX-Other: 1", "", "type must be a single line of printable ASCII, got 'text/plain"),
        ("text/plain", "Bearer ü", "authorization must be a single line of printable ASCII, got 'Bearer ü'"),
        ("text/plain", "", "the API must answer, got "),  # nothing listens
    ],
)
def test_what_cannot_be_sent_is_said(kind: str, token: str, says: str) -> None:
    parts = Parts(apis=[api(1, signed=True)])
    pipeline = Pipeline(ENDPOINT, "Shop/Any", inbox=None, prefix="", table="rows", parts=parts)
    (way,) = inputs_of(ENDPOINT, pipeline)
    with pytest.raises(LocalError, match=says):
        way.send(b"x", kind, token)
