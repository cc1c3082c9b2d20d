"""Each role may do what it is for, and not the same to its neighbour: calls with the roles' own credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from cdk_inference.local import aws

if TYPE_CHECKING:
    from tests.e2e.releases.conftest import Releasing

pytestmark = pytest.mark.e2e

STEPPER, WORKFLOW, COMPARISON = "StepperStateMachineRole", "WorkflowStateMachineRole", "ComparisonStateMachineRole"
JUDGE, COMPARE = "StepperJudgeRole", "ComparisonCompareRole"


def clients(releasing: Releasing, role: str) -> dict[str, Any]:
    """Return clients with the rights of a role, as the service that it is for gets them."""
    (name,) = (
        resource.physical_id
        for resource in releasing.cloud.resources(type="AWS::IAM::Role")
        if role in resource.logical_id and "Numbers" in resource.logical_id
    )
    arn = releasing.cloud.client("iam").get_role(RoleName=name)["Role"]["Arn"]
    service = "lambda" if role in (JUDGE, COMPARE) else "states"
    source = f"arn:aws:{service}:us-east-1:000000000000:{'function' if service == 'lambda' else 'stateMachine'}:any"
    endpoint = releasing.cloud.endpoint
    given = aws.service_credentials(endpoint, arn, service=f"{service}.amazonaws.com", source_arn=source)
    return aws.role_clients(endpoint, given, ("dynamodb", "stepfunctions"))


def allowed(call: Any, **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        if "AccessDenied" in error.response["Error"]["Code"]:
            return False
        if error.response["Error"]["Code"] != "ValidationException":  # the results have other keys
            raise
    return True


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (JUDGE, {"query"}),
        (COMPARE, {"update_item"}),
        (STEPPER, {"update_item"}),
        (WORKFLOW, {"get_item", "update_item"}),
        (COMPARISON, set()),
    ],
)
def test_a_role_uses_the_table_of_releases_as_it_must_and_no_other(
    releasing: Releasing, role: str, may: set[str]
) -> None:
    dynamodb = clients(releasing, role)["dynamodb"]
    key = {"release": {"S": releasing.id}, "record": {"S": "a test"}}
    calls: dict[str, dict[str, Any]] = {
        "query": {
            "KeyConditionExpression": "#release = :release",
            "ExpressionAttributeNames": {"#release": "release"},
            "ExpressionAttributeValues": {":release": {"S": releasing.id}},
        },
        "get_item": {"Key": key},
        "update_item": {"Key": key},
        "put_item": {"Item": key},
        "delete_item": {"Key": key},
    }
    for name, arguments in calls.items():
        call = getattr(dynamodb, name)
        assert allowed(call, TableName=releasing.table, **arguments) == (name in may), name
        assert not allowed(call, TableName=releasing.pipeline.table, **arguments), name


def test_only_the_workflow_starts_a_comparison(releasing: Releasing) -> None:
    start = {"stateMachineArn": releasing.comparison, "input": '{"messages": []}'}
    assert allowed(clients(releasing, WORKFLOW)["stepfunctions"].start_execution, **start)
    assert not allowed(clients(releasing, STEPPER)["stepfunctions"].start_execution, **start)
    releasing.stop()
    start["stateMachineArn"] = releasing.machine
    assert not allowed(clients(releasing, WORKFLOW)["stepfunctions"].start_execution, **start)
    assert allowed(clients(releasing, STEPPER)["stepfunctions"].start_execution, **start)  # itself, when it hands over
