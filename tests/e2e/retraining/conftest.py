"""A pipeline whose model is trained again, in the embedded AWS, with jobs that do what a test tells them to."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cdk_inference.retraining.deployed import DeployedRetraining, RetrainingRun
from tests.assemblies import synthesized
from tests.e2e.quick import quick_cloud
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    def start(self, by: str = "operator") -> dict[str, Any]:
        """Start a run, and return what became of the execution."""
        return self.ended(self.started(self.deployed.machine, by))

    def started(self, machine: str, by: str = "operator") -> str:
        asked = {"stateMachineArn": machine, "input": json.dumps({"by": by})}
        return str(self._workflows.start_execution(**asked)["executionArn"])

    @contextmanager
    def paused_after(self, state: str) -> Iterator[tuple[str, Callable[[str], None], Callable[[], None]]]:
        """Make the same workflow with a pause in it: its ARN, what waits for that pause, and what ends it."""
        made = self._workflows.describe_state_machine(stateMachineArn=self.deployed.machine)
        definition = json.loads(made["definition"])
        states, table = definition["States"], self._table()
        after = states[state].pop("Next")
        states[state]["Next"] = "Look"
        states["Look"] = {
            "Type": "Task",
            "Resource": "arn:aws:states:::dynamodb:getItem",
            "Arguments": {"TableName": table, "Key": {"record": {"S": "go"}}},
            "Next": "May it go on?",
        }
        choice = {"Condition": "{% $exists($states.input.Item.record) %}", "Next": after}
        states["May it go on?"] = {"Type": "Choice", "Choices": [choice], "Default": "Look again"}
        states["Look again"] = {"Type": "Wait", "Seconds": 1, "Next": "Look"}
        machine = self._workflows.create_state_machine(
            name="paused", definition=json.dumps(definition), roleArn=made["roleArn"]
        )["stateMachineArn"]

        def entered(execution: str) -> bool:
            pages = self._workflows.get_paginator("get_execution_history").paginate(executionArn=execution)
            each = (event.get("stateEnteredEventDetails", {}).get("name") for page in pages for event in page["events"])
            return "Look" in each

        try:
            yield machine, lambda execution: wait_until(lambda: entered(execution), every=0.1), lambda: self.set("go")
        finally:
            self.set("go")
            self._workflows.delete_state_machine(stateMachineArn=machine)
            self.cloud.client("dynamodb").delete_item(TableName=table, Key={"record": {"S": "go"}})

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
        self.cloud.client("dynamodb").put_item(TableName=self._table(), Item={"record": {"S": record}, **values})

    def deferred_in(self, month: str) -> None:
        """Let the budget of another month have held a run back."""
        self.cloud.client("dynamodb").update_item(
            TableName=self._table(),
            Key={"record": {"S": "labels"}},
            UpdateExpression="SET #deferred = :month",
            ExpressionAttributeNames={"#deferred": "deferred"},
            ExpressionAttributeValues={":month": {"S": month}},
        )

    def _table(self) -> str:
        (machine,) = self.cloud.resources(role="retraining")
        return str(machine.metadata["runs_table"])


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
