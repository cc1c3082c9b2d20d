"""A pipeline whose model is trained again, in the embedded AWS, with jobs that do what a test tells them to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingRun
from tests.assemblies import synthesized
from tests.e2e.quick import quick_cloud
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

APP = Path(__file__).with_name("app")


class Session:
    """As boto3's, for the embedded AWS."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.client = cloud.client


class Trainer:
    """A deployed retraining, and the orders of its jobs."""

    def __init__(self, cloud: LocalCloud, records: Watched, orders: Path) -> None:
        self.cloud, self.records, self._orders = cloud, records, orders
        self.deployed = DeployedRetraining.find(Session(cloud), "Faults")
        self._workflows = cloud.client("stepfunctions")
        self._number = 0

    def order(self, **orders: str) -> None:
        """Tell the jobs what to do; those that are not named do well."""
        for name in ("train.log", "build.log", "deploy.log", "go"):
            (self._orders / name).unlink(missing_ok=True)
        (self._orders / "orders.json").write_text(json.dumps(orders))

    def go(self) -> None:
        """Let a job that waits go on."""
        (self._orders / "go").touch()

    def done(self, job: str) -> list[dict[str, Any]]:
        """Return what a job was started for, since the last order."""
        log = self._orders / f"{job}.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def scored(self, count: int) -> list[str]:
        """Put so many new objects, and return their keys once they have rows."""
        self._number += 1
        keys = [f"{self._number}/{number}.json" for number in range(count)]
        for key in keys:
            self.records.put(key, json.dumps({"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.0}).encode())
        self.records.ends(keys)
        return keys

    def label(self, keys: list[str], label: str = "low") -> None:
        taken = self.deployed.label([{"key": key, "label": label, "by": "a test"} for key in keys])
        assert (taken.accepted, taken.rejected) == (len(keys), [])

    def executions(self) -> list[dict[str, Any]]:
        pages = self._workflows.get_paginator("list_executions").paginate(stateMachineArn=self.deployed.machine)
        return [one for page in pages for one in page["executions"]]

    def start(self) -> dict[str, Any]:
        """Start a run, and return what became of the execution."""
        return self.ended(self.deployed.start())

    def ended(self, execution: str) -> dict[str, Any]:
        def described() -> dict[str, Any]:
            return dict(self._workflows.describe_execution(executionArn=execution))

        wait_until(lambda: described()["status"] != "RUNNING", described, every=0.2)
        return described()

    def at_rest(self) -> None:
        """Wait until no execution runs."""
        wait_until(
            lambda: not [one for one in self.executions() if one["status"] == "RUNNING"], self.executions, every=0.2
        )

    def last_run(self) -> RetrainingRun:
        return self.deployed.status().runs[-1]

    def set(self, record: str, **values: dict[str, str]) -> None:
        """Write a record of the table of runs."""
        (machine,) = self.cloud.resources(role="retraining")
        item = {"record": {"S": record}, **values}
        self.cloud.client("dynamodb").put_item(TableName=machine.metadata["runs_table"], Item=item)


@pytest.fixture(scope="package")
def order_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory, order_folder: Path) -> Iterator[LocalCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAINING_ORDERS", str(order_folder))
        app = synthesized(APP / "app.py", tmp_path_factory.mktemp("retraining"))
    with quick_cloud(app) as cloud:
        yield cloud


@pytest.fixture(scope="package")
def trainer(watch: type[Watched], cloud: LocalCloud, order_folder: Path) -> Trainer:
    return Trainer(cloud, watch(cloud, "Faults/Records"), order_folder)


@pytest.fixture
def training(trainer: Trainer) -> Iterator[Trainer]:
    """A retraining that rests, whose labels are not enough for a run by themselves."""
    trainer.order()
    yield trainer
    trainer.go()
    trainer.at_rest()
