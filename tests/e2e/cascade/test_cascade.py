"""The example cascade: which model answers, what the rows say, and that nothing gets lost while there is no GPU."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws
from tests.assemblies import synthesized
from tests.constructs.conftest import states_of
from tests.e2e.cascade.conftest import EXAMPLE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

# Lite2's answers, right or wrong. Lite0 is sure of the other photographs.
UNSURE = {
    "chelsea.png": "Egyptian cat",
    "china.jpg": "palace",
    "cliff.png": "promontory",
    "dog.jpg": "German shepherd",
    "rocket.jpg": "drilling platform",
}
SURE = {"camera.png": "tripod", "coffee.png": "espresso", "daisy.jpg": "daisy"}


class Gpu:
    """The workflow that waits for the GPU, seen from outside."""

    def __init__(self, cloud: LocalCloud, machine: str) -> None:
        self._client = cloud.client("stepfunctions")
        self.machine = machine

    def executions(self) -> dict[str, str]:
        """Return the statuses of all executions."""
        pages = self._client.get_paginator("list_executions").paginate(stateMachineArn=self.machine)
        return {one["executionArn"]: one["status"] for page in pages for one in page["executions"]}

    def wait_for_end(self) -> None:
        wait_until(lambda: "RUNNING" not in self.executions().values(), self.executions, every=0.25)

    def entered(self, execution: str) -> list[str]:
        """Return the states that an execution was in."""
        pages = self._client.get_paginator("get_execution_history").paginate(executionArn=execution)
        details = (event.get("stateEnteredEventDetails") for page in pages for event in page["events"])
        return [one["name"] for one in details if one]


@pytest.fixture(scope="module")
def gpu(cloud: LocalCloud, gpu_machine: str) -> Gpu:
    return Gpu(cloud, gpu_machine)


@pytest.fixture(scope="module")
def calibration(cloud: LocalCloud, photos: Watched) -> dict[str, Any]:
    """The cascade's entry in the template."""
    (machine,) = cloud.stack("PhotoCascade").resources(role="state-machine")
    (calibration,) = machine.metadata["cascades"]
    return calibration


def test_every_photograph_gets_one_row_that_says_whose_answer_counts(
    photos: Watched, gpu: Gpu, photographs: dict[str, bytes], calibration: dict[str, Any]
) -> None:
    hostile = {"notes.jpg": b"these are notes", "empty.jpg": b""}
    for key, data in (photographs | hostile).items():
        photos.put(key, data)
    assert photos.ends(photographs | hostile) == {
        **dict.fromkeys(photographs, "SUCCEEDED"),
        **dict.fromkeys(hostile, "REJECTED"),
    }
    first, then = (calibration[model]["model_version"] for model in ("first", "then"))
    threshold = Decimal(str(calibration["threshold"]))
    rows = {row["key"]: row for row in photos.rows(*photographs)}
    assert {key: rows[key]["prediction"]["label"] for key in rows} == UNSURE | SURE
    for key in SURE:
        row = rows[key]
        assert (row["route"], row["model_version"], row["inference"]) == ("lite0", first, "cpu")
        assert row["confidence"] >= threshold
        assert "first" not in row
    for key in UNSURE:
        row = rows[key]
        # what is made for a GPU ran on a CPU, and says so
        assert (row["route"], row["model_version"], row["inference"]) == ("lite2", then, "cpu")
        answer = row["first"]
        assert (answer["route"], answer["model_version"], answer["inference"]) == ("lite0", first, "cpu")
        assert answer["confidence"] < threshold
        assert len(answer["prediction"]["top"]) == len(row["prediction"]["top"]) == 5
    # both models' answers have the same key, so that one cannot stay next to the other
    assert {row["version"] for row in photos.rows()} == {f"null#{first}+{then}"}
    for key in hostile:
        row = photos.row(key)
        assert row["reason"]
        assert "prediction" not in row
    gpu.wait_for_end()
    assert set(gpu.executions().values()) == {"SUCCEEDED"}
    assert photos.dead() == []


def test_a_file_that_comes_again_and_an_event_that_comes_thrice_add_no_rows(
    photos: Watched, gpu: Gpu, photographs: dict[str, bytes]
) -> None:
    keys = {"again/sure.png": "coffee.png", "again/unsure.jpg": "dog.jpg"}
    with photos.throttled("lite0 Preprocess"):
        for key, name in keys.items():
            photos.put(key, photographs[name])
        events = photos.wait_for_queued(keys, len(keys))
        for event in events * 2:
            photos.cloud.client("sqs").send_message(QueueUrl=photos.queue, MessageBody=json.dumps(event))
        photos.wait_for_queued(keys, 3 * len(keys))
    assert photos.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")
    gpu.wait_for_end()
    before = {key: photos.row(key) for key in keys}
    for key, name in keys.items():
        photos.put(key, photographs[name])
    wait_until(
        lambda: all(photos.row(key)["sequencer"] > before[key]["sequencer"] for key in keys), lambda: before, every=0.25
    )
    for key, name in keys.items():
        row = photos.row(key)
        assert row["version"] == before[key]["version"]
        assert row["prediction"]["label"] == (UNSURE | SURE)[name]
    gpu.wait_for_end()
    assert set(gpu.executions().values()) == {"SUCCEEDED"}
    assert photos.dead() == []


def test_nothing_is_lost_while_there_is_no_gpu(photos: Watched, gpu: Gpu, photographs: dict[str, bytes]) -> None:
    unsure = {f"patient/{name}": photographs[name] for name in UNSURE}
    sure = {f"patient/{name}": photographs[name] for name in SURE}
    done = gpu.executions()
    with photos.throttled("lite2 Inference"):
        for key, data in (unsure | sure).items():
            photos.put(key, data)
        assert photos.ends(sure) == dict.fromkeys(sure, "SUCCEEDED")  # they do not wait for the others

        def waiting() -> bool:
            new = gpu.executions().keys() - done.keys()
            return bool(new) and all(gpu.entered(one).count("Wait for inference") > 1 for one in new)

        wait_until(waiting, gpu.executions, every=0.25)
        assert photos.rows(*unsure) == []
    assert photos.ends(unsure) == dict.fromkeys(unsure, "SUCCEEDED")
    gpu.wait_for_end()
    assert set(gpu.executions().values()) == {"SUCCEEDED"}
    assert photos.dead() == []
    assert {row["route"] for row in photos.rows(*unsure)} == {"lite2"}


def test_only_the_workflow_that_waits_may_invoke_what_has_a_gpu(cloud: LocalCloud, photos: Watched, gpu: Gpu) -> None:
    """The emulator does not check what a state machine invokes: ask with the roles of the two."""
    front, back = (_clients(cloud, machine) for machine in (photos.machine, gpu.machine))
    target = _target(cloud, gpu.machine, "Infer")
    preprocess = _target(cloud, photos.machine, "lite2: Preprocess")
    # an event without groups is nothing to do
    assert "FunctionError" not in back["lambda"].invoke(FunctionName=target, Payload=b'{"groups": []}')
    refused(lambda: front["lambda"].invoke(FunctionName=target, Payload=b'{"groups": []}'))
    assert "FunctionError" not in front["lambda"].invoke(FunctionName=preprocess, Payload=b'{"messages": []}')
    refused(lambda: back["lambda"].invoke(FunctionName=preprocess, Payload=b'{"messages": []}'))
    refused(lambda: back["stepfunctions"].start_execution(stateMachineArn=gpu.machine, input="{}"))
    refused(lambda: front["stepfunctions"].start_execution(stateMachineArn=photos.machine, input="[]"))
    for role in (front, back):  # both put what failed into the dead-letter queue, and nothing into any other
        refused(lambda role=role: role["sqs"].send_message(QueueUrl=photos.queue, MessageBody="{}"))


def _clients(cloud: LocalCloud, machine: str) -> dict[str, Any]:
    role = cloud.client("stepfunctions").describe_state_machine(stateMachineArn=machine)["roleArn"]
    credentials = aws.service_credentials(cloud.endpoint, role, service="states.amazonaws.com", source_arn=machine)
    return aws.role_clients(cloud.endpoint, credentials, ("lambda", "stepfunctions", "sqs"))


def _target(cloud: LocalCloud, machine: str, state: str) -> str:
    """Return what a state invokes."""
    found = cloud.client("stepfunctions").describe_state_machine(stateMachineArn=machine)["definition"]
    return str(states_of(json.loads(found))[state]["Arguments"]["FunctionName"])


def refused(call: Any) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        call()


def test_a_second_synth_changes_nothing(cloud: LocalCloud, project: Path, tmp_path: Path) -> None:
    app = synthesized(project / EXAMPLE, tmp_path / "synthesized", settings=project / "cdk.json")
    assert cloud.diff(app) == ""
