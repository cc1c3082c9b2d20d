"""A device next to the embedded AWS, with a network in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from tests.runtime.edge.device import Device, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


@pytest.fixture
def network(endpoint: str) -> Iterator[Proxy]:
    """The way to AWS."""
    proxy = Proxy(urlsplit(endpoint).port or 80)
    yield proxy
    proxy.cut()


@pytest.fixture
def device(
    environment: pytest.MonkeyPatch, network: Proxy, bucket: str, table: str, tmp_path: Path
) -> Iterator[Device]:
    """A device whose inbox is `bucket` and whose results go to `table`."""
    for name in ("PIPELINE", "MODEL_VERSION", "RESULTS_TABLE", "WORK_BUCKET"):
        environment.delenv(name, raising=False)
    found = Device(
        tmp_path,
        INBOX_BUCKET=bucket,
        RESULTS_TABLE=table,
        AWS_ENDPOINT_URL=f"http://localhost:{network.port}",
    )
    yield found
    if found.process is not None and found.process.poll() is None:
        found.kill()


@pytest.fixture
def rows(table: str, device: Device) -> Callable[[], dict[str, dict[str, Any]]]:
    """Read the results table."""

    def rows() -> dict[str, dict[str, Any]]:
        items: list[Any] = boto3.resource("dynamodb").Table(table).scan(ConsistentRead=True)["Items"]
        return {row["key"]: row for row in items}

    return rows


@pytest.fixture
def uploaded(s3: S3Client, bucket: str) -> Callable[[], dict[str, dict[str, str]]]:
    """Read keys and metadata of the inbox."""

    def uploaded() -> dict[str, dict[str, str]]:
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return {key: s3.head_object(Bucket=bucket, Key=key)["Metadata"] for key in keys}

    return uploaded
