"""A pipeline with a release in the embedded AWS."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from cdk_inference.local import LocalCloud, aws
from cdk_inference.releases.deployed import DeployedRelease, Status
from tests.assemblies import synthesized
from tests.e2e.quick import QuickEmulator
from tests.waiting import PATIENCE, wait_until

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
        (table,) = self.cloud.resources(role="releases", pipeline=pipeline.name)
        self.table = table.physical_id
        self.id = table.metadata["release"]
        self.deployed = DeployedRelease(table, self.cloud.client("dynamodb"))

    def forget(self) -> None:
        """Delete all records, so that the release has not begun."""
        dynamodb = self.cloud.client("dynamodb")
        for item in dynamodb.scan(TableName=self.table, ConsistentRead=True)["Items"]:
            dynamodb.delete_item(TableName=self.table, Key={name: item[name] for name in ("release", "record")})

    def stop(self) -> None:
        """End all executions: each is of a test that is over."""
        workflows = self.cloud.client("stepfunctions")
        running = workflows.list_executions(stateMachineArn=self.machine, statusFilter="RUNNING")["executions"]
        for execution in running:
            try:
                workflows.stop_execution(executionArn=execution["executionArn"])
            except ClientError as error:  # it ended meanwhile
                if "not running" not in str(error):
                    raise

    def wait_for_comparisons(self) -> None:
        """Wait until no comparison runs: what it counts would be the next test's."""
        workflows = self.cloud.client("stepfunctions")

        def running() -> list[Any]:
            asked = {"stateMachineArn": self.comparison, "statusFilter": "RUNNING"}
            return list(workflows.list_executions(**asked)["executions"])

        wait_until(lambda: not running(), running, every=0.25)

    def status(self) -> Status:
        return self.deployed.status()

    def last_line(self) -> dict[str, Any]:
        """Return what the judge has logged of its last decision."""
        lines = [line for line in self.pipeline.logs("Judge").splitlines() if '"decision"' in line]
        return dict(json.loads(lines[-1]))

    def set(self, **numbers: float) -> None:
        """Write a state as the release itself would have, before anybody judges it."""
        numbers = {"step": 0, "changed_at": 0} | numbers
        item: dict[str, Any] = {name: {"N": str(number)} for name, number in numbers.items()}
        key = {"release": {"S": self.id}, "record": {"S": "state"}, "status": {"S": "RUNNING"}}
        self.cloud.client("dynamodb").put_item(TableName=self.table, Item={**item, **key})

    def put(self, prefix: str, count: int, candidate: str = "good") -> list[str]:
        """Put objects of which the candidate makes what it is told, and return their keys.

        They are put together, so that they come in few batches.
        """
        keys = [f"{prefix}/{number}.json" for number in range(count)]

        def put(number: int) -> None:
            numbers = {name: 1.0 if number % 4 == place else 0.0 for place, name in enumerate("abcd")}
            self.pipeline.put(keys[number], json.dumps({**numbers, "candidate": candidate}).encode())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(count)))
        return keys

    @cached_property
    def machine(self) -> str:
        """The state machine that moves the share."""
        (machine,) = self.cloud.resources(role="release-state-machine", pipeline=self.pipeline.name)
        return machine.physical_id

    @cached_property
    def comparison(self) -> str:
        """The state machine that compares both arms' answers."""
        (machine,) = self.cloud.resources(role="comparison-state-machine", pipeline=self.pipeline.name)
        return machine.physical_id

    def begin(self, *, wait: bool = True) -> str:
        """Start the state machine as EventBridge does, wait until the release runs, and return the execution."""
        workflows = self.cloud.client("stepfunctions")
        execution = str(workflows.start_execution(stateMachineArn=self.machine, input="{}")["executionArn"])
        if wait:
            wait_until(lambda: self.status().status == "RUNNING", self.status, every=0.25)
        return execution

    def ended(self, execution: str) -> tuple[str, str | None, str | None]:
        """Wait for the end of an execution, and return its status, error and cause."""
        workflows = self.cloud.client("stepfunctions")

        def described() -> dict[str, Any]:
            return dict(workflows.describe_execution(executionArn=execution))

        wait_until(lambda: described()["status"] != "RUNNING", described, every=0.25)
        found = described()
        return found["status"], found.get("error"), found.get("cause")

    def windows(self, execution: str) -> int:
        """Return how often an execution has judged."""
        events = self.pipeline.history(execution)
        return sum(event.get("stateExitedEventDetails", {}).get("name") == "Judge release" for event in events)

    def failed_judgements(self, execution: str) -> int:
        """Return how often nobody judged."""
        events = self.pipeline.history(execution)
        failed = (event.get("taskFailedEventDetails", {}).get("error", "") for event in events)
        return sum(error.startswith("Lambda.TooManyRequests") for error in failed)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Have the alarm ring for the length of a block."""
        self._set_alarm("ALARM")
        try:
            yield
        finally:
            self._set_alarm("OK")

    @cached_property
    def _alarm(self) -> str:
        (alarm,) = self.cloud.resources(type="AWS::CloudWatch::Alarm")
        return alarm.physical_id

    def _set_alarm(self, state: str) -> None:
        # By the query protocol: MiniStack reads that of boto3 only with another package.
        asked = {"Action": "SetAlarmState", "AlarmName": self._alarm, "StateValue": state, "StateReason": "a test"}
        body = urllib.parse.urlencode(asked | {"Version": "2010-08-01"}).encode()
        request = AWSRequest("POST", f"{self.cloud.endpoint}/", data=body)
        request.headers["Content-Type"] = "application/x-www-form-urlencoded"
        root = aws.root_credentials(self.cloud.endpoint)
        signer = Credentials(root["AccessKeyId"], root["SecretAccessKey"])
        SigV4Auth(signer, "monitoring", aws.REGION).add_auth(request)
        signed = urllib.request.Request(request.url, body, dict(request.headers))  # noqa: S310 - our own endpoint
        with aws.open_directly(signed, timeout=PATIENCE) as answer:
            assert answer.status == 200

    def write(self, state: str, *, step: int, guarded: bool) -> bool:
        """Do the write of a state, as an execution that has judged this step does, and say whether it was done."""
        described = self.cloud.client("stepfunctions").describe_state_machine(stateMachineArn=self.machine)
        call = json.loads(described["definition"])["States"][state]["Arguments"]
        values = call["ExpressionAttributeValues"]
        values |= {":changed_at": {"N": "1"}, ":history": {"L": [{"S": json.dumps({"status": "ABORTED"})}]}}
        values[":seen"] = {"N": str(step)}
        if not guarded:
            del call["ConditionExpression"], values[":running"], values[":seen"]
            del call["ExpressionAttributeNames"]["#step"]
        dynamodb = self.cloud.client("dynamodb")
        try:
            dynamodb.update_item(**call)
        except dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def arms(self, keys: list[str]) -> dict[str, str]:
        """Return which arm answered each object, once all have their row."""
        assert set(self.pipeline.ends(keys).values()) == {"SUCCEEDED"}
        rows = self.pipeline.rows(*keys)
        versions = {(row["variant"], row["route"], row["model_version"]) for row in rows}
        assert len({variant for variant, _, _ in versions}) == len(versions)  # no row mixes builds
        assert {(variant, route) for variant, route, _ in versions} <= {("stable", "main"), ("candidate", "new")}
        return {row["key"]: row["variant"] for row in rows}

    def stored(self, candidate: str, count: int) -> list[dict[str, Any]]:
        """Put objects before the release begins, and return their rows."""
        keys = self.put(f"stored/{candidate}", count, candidate)
        self.pipeline.ends(keys)
        return self.pipeline.rows(*keys)

    def deliver_again(self, rows: list[dict[str, Any]]) -> None:
        """Run the workflow as the pipe does, with events that were there before."""
        self._run([self._message(row, "2") for row in rows])

    def deliver_one_by_one(self, rows: list[dict[str, Any]]) -> None:
        """Run the workflow for each event alone, as if it had come just now.

        Two at a time: each function unpacks and starts a process for each of its invocations that run at once.
        """
        with ThreadPoolExecutor(2) as pool:
            for first in range(0, len(rows), 2):
                list(pool.map(lambda row: self._run([self._message(row, "1")]), rows[first : first + 2]))
                self.wait_for_comparisons()

    def _message(self, row: dict[str, Any], receive_count: str) -> dict[str, Any]:
        described = {"key": row["key"], "size": int(row["size"]), "etag": row["etag"]}
        described |= {"version-id": row["version"].partition("#")[0], "sequencer": row["sequencer"]}
        detail = {"bucket": {"name": self.pipeline.bucket}, "object": described}
        body = {"time": row["event_time"], "detail": detail}
        return {"message_id": row["key"], "receive_count": receive_count, "body": body}

    def _run(self, messages: list[dict[str, Any]]) -> None:
        answer = self.cloud.client("stepfunctions").start_sync_execution(
            stateMachineArn=self.pipeline.machine, input=json.dumps(messages)
        )
        assert json.loads(answer["output"]) == {"batchItemFailures": []}


@pytest.fixture(scope="package")
def shadow(watch: type[Watched], cloud: LocalCloud) -> Releasing:
    return Releasing(watch(cloud, "Releases/Shadow"))


@pytest.fixture(scope="package")
def made(numbers: Watched) -> Releasing:
    return Releasing(numbers)


@pytest.fixture(scope="package")
def begun(made: Releasing) -> str:
    """The name of the decider that began the release with the deployment."""
    wait_until(lambda: made.status().history, made.status, every=0.25)
    return str(made.status().history[0]["by"])


@pytest.fixture
def releasing(made: Releasing, begun: str) -> Iterator[Releasing]:
    made.stop()
    made.wait_for_comparisons()
    made.forget()
    yield made
    made.stop()


@pytest.fixture
def session(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    """The environment in which AWS's tools reach the embedded AWS."""
    for name, value in aws.environment(cloud.endpoint, base={}).items():
        monkeypatch.setenv(name, value)
    return boto3.Session()
