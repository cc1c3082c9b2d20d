"""The signer of uploads: where its URLs lead, and who may read its answers."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    variables = {
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "UPLOAD_BUCKET": "inbox",
        "UPLOAD_PREFIX": "in/",
        "UPLOAD_TYPES": json.dumps({"text/plain": ".txt"}),
        "MAX_OBJECT_BYTES": "10",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return importlib.reload(importlib.import_module("inference_runtime.handlers.upload"))


def test_a_url_leads_to_the_region_of_the_bucket(upload: ModuleType) -> None:
    answer = upload.handler({"body": json.dumps({"size": 10, "content_type": "text/plain"})}, None)
    body = json.loads(answer["body"])
    assert answer["statusCode"] == 201
    assert body["url"].startswith(f"https://inbox.s3.eu-central-1.amazonaws.com/in/{body['id']}?")


def test_a_page_of_the_origin_may_read_why_an_upload_fails(upload: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"body": json.dumps({"size": 11, "content_type": "text/plain"})}
    assert "access-control-allow-origin" not in upload.handler(asked, None)["headers"]
    monkeypatch.setenv("API_ALLOW_ORIGIN", "https://shop.example.com")
    answer = upload.handler(asked, None)
    assert (answer["statusCode"], json.loads(answer["body"])["message"]) == (
        413,
        "size must be at most 10 bytes, got 11",
    )
    assert answer["headers"]["access-control-allow-origin"] == "https://shop.example.com"
