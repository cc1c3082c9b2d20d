"""The server of the benchmark of S3 clients serves what is signed, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import botocore
import pytest
from benchmarks.s3_server import s3_server

from inference_runtime.errors import RetryableError
from inference_runtime.s3.client import S3Client

CERTIFICATES = Path(botocore.__file__).with_name("cacert.pem")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certificates = shutil.copy(CERTIFICATES, tmp_path)
    monkeypatch.delenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    with s3_server({"/models/a%20key": b"content"}, Path(certificates)) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield S3Client


def test_a_signed_request_is_served(client) -> None:
    assert client().get("models", "a key") == b"content"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_REGION"])
def test_a_request_signed_otherwise_is_refused(client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "other")
    with pytest.raises(RetryableError, match="SignatureDoesNotMatch"):
        client().get("models", "a key")
