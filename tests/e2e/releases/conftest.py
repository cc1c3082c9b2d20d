"""A pipeline with a release in the embedded AWS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from cdk_inference.local import LocalCloud, aws
from cdk_inference.releases.deployed import DeployedRelease, Status
from tests.assemblies import synthesized
from tests.e2e.quick import QuickEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

APP = Path(__file__).with_name("app")


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    app = synthesized(APP / "app.py", tmp_path_factory.mktemp("releases"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud(retry_after=2) as cloud:
            cloud.deploy(app)
            yield cloud


@pytest.fixture(scope="package")
def numbers(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return watch(cloud, "Releases/Numbers")


class Releasing:
    """The release, one after the other: each test begins a new one."""

    def __init__(self, pipeline: Watched) -> None:
        self.pipeline = pipeline
        self.cloud = pipeline.cloud
        (table,) = self.cloud.resources(role="releases")
        self.table = table.physical_id
        self.id = table.metadata["release"]
        self.deployed = DeployedRelease(table, self.cloud.client("dynamodb"))

    def forget(self) -> None:
        """Delete all records, so that the release has not begun."""
        dynamodb = self.cloud.client("dynamodb")
        for item in dynamodb.scan(TableName=self.table, ConsistentRead=True)["Items"]:
            dynamodb.delete_item(TableName=self.table, Key={name: item[name] for name in ("release", "record")})

    def status(self) -> Status:
        return self.deployed.status()

    def set(self, **numbers: float) -> None:
        """Write a state as the release itself would have."""
        item: dict[str, Any] = {name: {"N": str(number)} for name, number in numbers.items()}
        key = {"release": {"S": self.id}, "record": {"S": "state"}, "status": {"S": "RUNNING"}}
        self.cloud.client("dynamodb").put_item(TableName=self.table, Item={**item, **key})

    def put(self, prefix: str, count: int, candidate: str = "good") -> list[str]:
        """Put objects of which the candidate makes what it is told, and return their keys."""
        keys = [f"{prefix}/{number}.json" for number in range(count)]
        for number, key in enumerate(keys):
            numbers = {name: 1.0 if number % 4 == place else 0.0 for place, name in enumerate("abcd")}
            self.pipeline.put(key, json.dumps({**numbers, "candidate": candidate}).encode())
        return keys

    def deliver_again(self, rows: list[dict[str, Any]]) -> None:
        """Run the workflow as the pipe does, with events that were there before."""
        messages = []
        for row in rows:
            described = {"key": row["key"], "size": int(row["size"]), "etag": row["etag"]}
            described |= {"version-id": row["version"].partition("#")[0], "sequencer": row["sequencer"]}
            detail = {"bucket": {"name": self.pipeline.bucket}, "object": described}
            body = {"time": row["event_time"], "detail": detail}
            messages.append({"message_id": row["key"], "receive_count": "2", "body": body})
        answer = self.cloud.client("stepfunctions").start_sync_execution(
            stateMachineArn=self.pipeline.machine, input=json.dumps(messages)
        )
        assert json.loads(answer["output"]) == {"batchItemFailures": []}


@pytest.fixture
def releasing(numbers: Watched) -> Releasing:
    releasing = Releasing(numbers)
    releasing.forget()
    return releasing


@pytest.fixture
def session(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    """The environment in which AWS's tools reach the embedded AWS."""
    for name, value in aws.environment(cloud.endpoint, base={}).items():
        monkeypatch.setenv(name, value)
    return boto3.Session()
