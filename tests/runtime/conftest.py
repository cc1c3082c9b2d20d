"""The runtime against real parts: an embedded AWS, and handlers imported afresh as Lambda does."""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from tests.runtime.arrays import ArrayStore

from cdk_inference.local import aws
from cdk_inference.local.emulator.emulator import Emulator
from inference_runtime.s3.client import s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

_numbers = itertools.count()

ECHO = "def function(outputs, item): return {'y': outputs['y']}"


class OpenEmulator(Emulator):
    """An embedded AWS in which everybody may do everything, so that no test needs roles."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"AUTH": "false"}


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """URL of an embedded AWS."""
    with OpenEmulator() as emulator:
        yield emulator.endpoint


@pytest.fixture
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Environment of a Lambda function on the embedded AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    credentials = aws.root_credentials(endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["SecretAccessKey"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3_client.cache_clear()
    return monkeypatch


@pytest.fixture
def s3(environment: pytest.MonkeyPatch) -> S3Client:
    return boto3.client("s3")


@pytest.fixture
def dynamodb(environment: pytest.MonkeyPatch) -> DynamoDBClient:
    return boto3.client("dynamodb")


@pytest.fixture
def bucket(s3: S3Client, environment: pytest.MonkeyPatch) -> str:
    """A new bucket, also the work bucket of handlers."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    environment.setenv("WORK_BUCKET", name)
    environment.setenv("MODEL_VERSION", "m1")
    return name


def make_table(dynamodb: DynamoDBClient, prefix: str, partition_key: str, sort_key: str) -> str:
    """Create a table whose keys are strings, and return its name."""
    name = f"{prefix}-{os.getpid()}-{next(_numbers)}"
    keys = {partition_key: "HASH", sort_key: "RANGE"}
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
    )
    return name


@pytest.fixture
def table(dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch) -> str:
    """A new results table."""
    name = make_table(dynamodb, "table", "object", "version")
    environment.setenv("RESULTS_TABLE", name)
    environment.setenv("PIPELINE", "photos")
    return name


@pytest.fixture
def windows(dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch) -> str:
    """A new table for the counts of a drift monitor, which handlers then have."""
    name = make_table(dynamodb, "windows", "model", "started_at")
    environment.setenv("DRIFT_TABLE", name)
    environment.setenv("DRIFT_MODEL", "m1#baseline")
    environment.setenv("DRIFT_WINDOW", "86400")
    return name


@pytest.fixture
def tokens(dynamodb: DynamoDBClient, environment: pytest.MonkeyPatch) -> str:
    """A new table for the tokens of tasks that wait for SageMaker."""
    name = f"tokens-{os.getpid()}-{next(_numbers)}"
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "inference_id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "inference_id", "KeyType": "HASH"}],
    )
    environment.setenv("TOKENS_TABLE", name)
    return name


@pytest.fixture
def stage(environment: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Write user code that defines `function`, and configure it as the stage. Returns the module's name."""

    def write(code: str) -> str:
        name = f"user_stage_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        environment.syspath_prepend(str(tmp_path))
        environment.setenv("STAGE_FUNCTION", f"{name}:function")
        environment.delenv("STAGE_OPTIONS", raising=False)
        environment.delenv("STAGE_OPTIONS_FILE", raising=False)
        return name

    return write


@pytest.fixture
def load(environment: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a handler's module afresh, as a cold start does, and return its handler."""

    def load(name: str) -> Any:
        environment.delitem(sys.modules, f"inference_runtime.handlers.{name}", raising=False)
        module = importlib.import_module(f"inference_runtime.handlers.{name}")
        return lambda event, context=None: module.handler(event, context)

    return load


@pytest.fixture
def configure(
    environment: pytest.MonkeyPatch,
    bucket: str,
    table: str,
    stage: Callable[[str], str],
    load: Callable[[str], Any],
    s3: S3Client,
) -> Callable[..., Any]:
    """Return a handler around the given user code, that takes items and their outputs or reasons."""

    def configure(code: str = ECHO, **variables: str) -> Any:
        stage(code)
        for name, value in variables.items():
            environment.setenv(name, value)
        handler = load("postprocess")
        store = ArrayStore(s3, bucket)

        def call(results: list[tuple[dict[str, Any], Any]], **more: Any) -> Any:
            good = [(i, r) for i, (_, r) in enumerate(results) if isinstance(r, np.ndarray)]
            groups = [([i for i, _ in good], {"y": np.stack([r for _, r in good])})] if good else []
            event = {
                "items": [i for i, _ in results],
                "rejected": [{"index": i, "reason": r} for i, (_, r) in enumerate(results) if isinstance(r, str)],
                "inference": "cpu",
                "model_version": "m1",
                **more,
            }
            event = store.dump_groups(event, groups, "outputs", 80_000)
            return json.loads(json.dumps(handler(json.loads(json.dumps(event)))))

        return call

    return configure


@pytest.fixture
def rows(environment: pytest.MonkeyPatch, table: str) -> Callable[[], dict[str, dict[str, Any]]]:
    """Read the table as a user does, in Python's types."""

    def rows() -> dict[str, dict[str, Any]]:
        found: list[Any] = boto3.resource("dynamodb").Table(table).scan()["Items"]
        return {row["key"]: row for row in found}

    return rows


@dataclass
class Inbox:
    """Puts objects into a bucket, and makes the messages that the pipe would bring."""

    s3: S3Client
    bucket: str

    def put(self, key: str, body: bytes, **changes: Any) -> dict[str, Any]:
        etag = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)["ETag"].strip('"')
        return self.message(key, **{"etag": etag, "size": len(body), **changes})

    def message(self, key: str, **entry: Any) -> dict[str, Any]:
        number = next(_numbers)
        return {
            "message_id": f"message-{number}",
            "time": "2026-01-02T03:04:05Z",
            "detail": {
                "version": "0",
                "bucket": {"name": self.bucket},
                "object": {"key": key, "size": 1, "etag": "0" * 32, "sequencer": f"{number:018X}", **entry},
                "reason": "PutObject",
            },
        }


@pytest.fixture
def inbox(s3: S3Client, bucket: str) -> Inbox:
    return Inbox(s3, bucket)


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    """Have warnings logged, whatever level the model builds of other tests have left to the root logger."""
    caplog.set_level(logging.WARNING)
