"""The app with small models and stages of the user's own, deployed once."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud, PipeRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

APP = Path(__file__).with_name("app")


class Pipes:
    """Runs the pipes, except while a test wants events to wait in the queue."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self._runner = PipeRunner(cloud.endpoint).start()

    def stop(self) -> None:
        self._runner.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._runner.stop()
        try:
            yield
        finally:
            self._runner = PipeRunner(self._cloud.endpoint).start()


@pytest.fixture(scope="session")
def cloud() -> Iterator[LocalCloud]:
    with LocalCloud(pipes=False) as cloud:
        cloud.deploy(APP)
        yield cloud


@pytest.fixture(scope="session")
def pipes(cloud: LocalCloud) -> Iterator[Pipes]:
    pipes = Pipes(cloud)
    yield pipes
    pipes.stop()


@pytest.fixture(scope="session")
def outputs(cloud: LocalCloud) -> dict[str, str]:
    """The stack's outputs."""
    (stack,) = cloud.client("cloudformation").describe_stacks(StackName="Stages")["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="session")
def obedient(watch: type[Watched], cloud: LocalCloud, pipes: Pipes) -> Watched:
    return watch(cloud, "Stages/Obedient")


@pytest.fixture(scope="session")
def tables(watch: type[Watched], cloud: LocalCloud, pipes: Pipes, outputs: dict[str, str]) -> Watched:
    return watch(cloud, "Stages/Tables", bucket=outputs["BucketName"], table=outputs["TableName"])


@pytest.fixture(scope="session")
def tensors(watch: type[Watched], cloud: LocalCloud, pipes: Pipes, outputs: dict[str, str]) -> Watched:
    return watch(cloud, "Stages/Tensors", bucket=outputs["BucketName"], table=outputs["TableName"])
