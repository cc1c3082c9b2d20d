"""Least privilege: without any one of the grants that the emulator checks, a batch fails for that reason."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cdk_inference.local import Cloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("stage", "action"),
    [
        ("Preprocess", "s3:GetObject"),  # the photograph
        ("Preprocess", "s3:PutObject"),  # the tensor, too large to travel inline
        ("Inference", "s3:GetObject"),
        ("Postprocess", "dynamodb:PutItem"),
    ],
)
def test_without_a_grant_a_batch_fails(
    cloud: Cloud, photos: Watched, photographs: dict[str, Path], stage: str, action: str
) -> None:
    key = f"granted/{stage} {action}.jpg"
    photos.put(key, photographs["daisy.jpg"].read_bytes())
    assert photos.ends([key]) == {key: "SUCCEEDED"}
    message = again(photos, key)
    logged = len(photos.logs(stage))
    with removed(cloud, photos.functions[stage], action):
        assert run(cloud, photos, message) == [{"itemIdentifier": "again"}]
    assert photos.row(key)["sequencer"] != sequencer(message)
    assert run(cloud, photos, message) == []
    assert photos.row(key)["sequencer"] == sequencer(message)
    assert "AccessDenied" in photos.logs(stage)[logged:]


def again(pipeline: Watched, key: str) -> dict[str, Any]:
    """Make the message of a newer event of an object that was read already."""
    row = pipeline.row(key)
    newer = f"{int(row['sequencer'], 16) + 1:032X}"
    described = {"key": key, "size": int(row["size"]), "etag": row["etag"], "sequencer": newer}
    detail = {"bucket": {"name": pipeline.bucket}, "object": described}
    return {"message_id": "again", "body": {"time": row["event_time"], "detail": detail}}


def sequencer(message: dict[str, Any]) -> str:
    return message["body"]["detail"]["object"]["sequencer"].lower()


def run(cloud: Cloud, pipeline: Watched, message: dict[str, Any]) -> list[dict[str, str]]:
    """Run the workflow as the pipe does, and return what it reports as failed; all, if something must be repaired."""
    answer = cloud.client("stepfunctions").start_sync_execution(
        stateMachineArn=pipeline.machine, input=json.dumps([message])
    )
    if answer.get("error") == "Misconfigured":
        assert "AccessDenied" in answer["cause"]
        return [{"itemIdentifier": message["message_id"]}]
    assert answer["status"] == "SUCCEEDED", answer
    return json.loads(answer["output"])["batchItemFailures"]


@contextmanager
def removed(cloud: Cloud, function: str, action: str) -> Iterator[None]:
    """Take an action from all statements of a function's role for the length of a block."""
    iam = cloud.client("iam")
    role = cloud.client("lambda").get_function_configuration(FunctionName=function)["Role"].rpartition("/")[2]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    less = copy.deepcopy(policy)
    for statement in less["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        statement["Action"] = [a for a in actions if a != action]
    less["Statement"] = [statement for statement in less["Statement"] if statement["Action"]]
    assert less != policy
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(less))
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))
