"""The app with small models and stages of the user's own, deployed once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud, PipeRunner
from tests.assemblies import synthesized
from tests.e2e.quick import QuickEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

APP = Path(__file__).with_name("app")


@pytest.fixture(scope="package")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an app that is the synthesized one."""
    return synthesized(APP / "app.py", tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="package")
def cloud(app: Path) -> Iterator[LocalCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud(pipes=False) as cloud:
            cloud.deploy(app)
            yield cloud


@dataclass(frozen=True)
class Hostile:
    """Hostile uploads: orders by key for the stage that obeys, and messages that are not events."""

    batch: dict[str, bytes]
    mixed: dict[str, bytes]
    slow: dict[str, bytes]
    garbage: list[str]


@pytest.fixture(scope="package")
def hostile(watch: type[Watched], cloud: LocalCloud) -> Hostile:
    """Put it all into both pipelines before the pipes run, so that the first batch is as large as can be."""
    good = b"return [1, 2, 3, 4]"
    batch = {f"batch/{i:02}": good for i in range(32)} | {"batch/13": b"exit"}
    mixed = {
        "mixed/1": good,
        "mixed/crash": b"crash",
        "mixed/2": good,
        "mixed/raise": b"raise",
        "mixed/sleep": b"sleep",
        "mixed/3": good,
    }
    # These hang for much longer than the function may run.
    slow = {f"slow/{i:02}": b"sleep" if i % 8 == 1 else good for i in range(32)}
    incomplete = {"bucket": {"name": "any"}, "object": {"key": "incomplete", "size": 1}}
    garbage = [
        "not JSON",
        "null",
        "[]",
        '"a text"',
        '{"hello": "world"}',
        '{"time": "2026-01-01T00:00:00Z", "detail": 5}',
        json.dumps({"time": "2026-01-01T00:00:00Z", "detail": incomplete}),
    ]
    for pipeline in (watch(cloud, "Stages/Obedient"), watch(cloud, "Stages/Fused")):
        for orders in (batch, slow, mixed):
            for key, order in orders.items():
                pipeline.put(key, order)
            pipeline.wait_for_queued(orders, len(orders))
        for body in garbage:
            cloud.client("sqs").send_message(QueueUrl=pipeline.queue, MessageBody=body)
    return Hostile(batch, mixed, slow, garbage)


@pytest.fixture(scope="package")
def pipes(cloud: LocalCloud, hostile: Hostile) -> Iterator[PipeRunner]:
    # The queues' own visibility timeouts stay longer than a workflow may take, as they must be. An object that came
    # back during its execution would become a dead letter, and get its row afterwards.
    with PipeRunner(cloud.endpoint, retry_after=2) as runner:
        yield runner


@pytest.fixture(scope="package")
def outputs(cloud: LocalCloud) -> dict[str, str]:
    """The stack's outputs."""
    (stack,) = cloud.client("cloudformation").describe_stacks(StackName="Stages")["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="package", params=["Obedient", "Fused"])
def obedient(request: pytest.FixtureRequest, watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner) -> Watched:
    """Stages that do what they are told: three functions, and one."""
    return watch(cloud, f"Stages/{request.param}")


@pytest.fixture(scope="package")
def tables(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner, outputs: dict[str, str]) -> Watched:
    return watch(cloud, "Stages/Tables", bucket=outputs["BucketName"], table=outputs["TableName"])


@pytest.fixture(scope="package")
def digits(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner, outputs: dict[str, str]) -> Watched:
    return watch(cloud, "Stages/Digits", bucket=outputs["BucketName"], table=outputs["TableName"])


@pytest.fixture(scope="package")
def tensors(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner, outputs: dict[str, str]) -> Watched:
    return watch(cloud, "Stages/Tensors", bucket=outputs["BucketName"], table=outputs["TableName"])


@pytest.fixture(scope="package")
def records(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner) -> Watched:
    return watch(cloud, "Stages/Records")


@pytest.fixture(scope="package")
def masks(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner) -> Watched:
    return watch(cloud, "Stages/Masks")


@pytest.fixture(scope="package")
def boxes(watch: type[Watched], cloud: LocalCloud, pipes: PipeRunner) -> Watched:
    return watch(cloud, "Stages/Boxes")
