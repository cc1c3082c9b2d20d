"""Pipes from a table's stream to a bus: what becomes an event, what is tried again, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.constructs.local.templates import create, trust
from tests.waiting import wait_until

from cdk_inference.local import LocalError, Resource, aws
from cdk_inference.local.emulator.emulator import Emulator
from cdk_inference.local.emulator.pipes import PipeRunner
from cdk_inference.local.emulator.stream_pipes import StreamPipeDefinition

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIBED = {"Name": "p", "Arn": "arn:pipe", "RoleArn": "arn:role", "Source": "arn:stream", "Target": "arn:bus"}
QUEUE = {"Type": "AWS::SQS::Queue", "Properties": {}}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Emulator() as emulator, PipeRunner(emulator.endpoint):
        yield emulator.endpoint


def template(actions: list[str]) -> dict[str, Any]:
    """A table whose new rows with the status GOOD are events, which a rule sends to a queue."""
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    arns = {part: {"Fn::GetAtt": [part, "Arn"]} for part in ("Table", "Role", "Events", "Dead")}
    pattern = {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"status": {"S": ["GOOD"]}}}}
    return {
        "Resources": {
            "Table": {
                "Type": "AWS::DynamoDB::Table",
                "Properties": {
                    "KeySchema": [{"AttributeName": "object", "KeyType": "HASH"}],
                    "AttributeDefinitions": [{"AttributeName": "object", "AttributeType": "S"}],
                    "BillingMode": "PAY_PER_REQUEST",
                    "StreamSpecification": {"StreamViewType": "NEW_IMAGE"},
                },
            },
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust()]},
                    "Policies": [{"PolicyName": "Pipe", "PolicyDocument": policy}],
                },
            },
            "Dead": QUEUE,
            "Events": QUEUE,
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {
                    "EventPattern": {"source": ["a test"], "resources": [arns["Table"]]},
                    "Targets": [{"Id": "Queue", "Arn": arns["Events"]}],
                },
            },
            "Pipe": {
                "Type": "AWS::Pipes::Pipe",
                "Properties": {
                    "RoleArn": arns["Role"],
                    "Source": {"Fn::GetAtt": ["Table", "StreamArn"]},
                    "Target": {"Fn::Sub": "arn:aws:events:${AWS::Region}:${AWS::AccountId}:event-bus/default"},
                    "SourceParameters": {
                        "DynamoDBStreamParameters": {
                            "StartingPosition": "TRIM_HORIZON",
                            "MaximumRetryAttempts": 1,
                            "DeadLetterConfig": {"Arn": arns["Dead"]},
                        },
                        "FilterCriteria": {"Filters": [{"Pattern": json.dumps(pattern)}]},
                    },
                    "TargetParameters": {
                        "InputTemplate": '{"object": "<$.dynamodb.NewImage.object.S>", "no": "<$.dynamodb.none>"}',
                        "EventBridgeEventBusParameters": {
                            "Source": "a test",
                            "DetailType": "Row",
                            "Resources": [arns["Table"]],
                        },
                    },
                },
            },
        }
    }


def deployed(endpoint: str, name: str, actions: list[str]) -> dict[str, str]:
    """Deploy it, write a good row and a bad one, and return the names of the resources."""
    cloudformation = aws.client(endpoint, "cloudformation")
    create(cloudformation, name, template(actions))
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    names = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in resources}
    for row in ("GOOD", "BAD"):
        aws.client(endpoint, "dynamodb").put_item(
            TableName=names["Table"], Item={"object": {"S": row.lower()}, "status": {"S": row}}
        )
    return names


def received(endpoint: str, queue: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def look() -> bool:
        answer = aws.client(endpoint, "sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        found.extend(json.loads(message["Body"]) for message in answer.get("Messages", []))
        return bool(found)

    wait_until(look)
    return found


def test_what_the_filter_wants_becomes_an_event(endpoint: str) -> None:
    names = deployed(endpoint, "Wanted", ["dynamodb:*", "events:PutEvents"])
    (event,) = received(endpoint, names["Events"])
    assert event["detail"] == {"object": "good", "no": ""}
    assert event["resources"] == [f"arn:aws:dynamodb:{aws.REGION}:{aws.ACCOUNT}:table/{names['Table']}"]


def test_what_the_bus_refuses_becomes_a_dead_letter_that_says_where_it_is(endpoint: str) -> None:
    names = deployed(endpoint, "Refused", ["dynamodb:*", "sqs:SendMessage"])
    (letter,) = received(endpoint, names["Dead"])
    assert letter["context"]["condition"] == "RetryAttemptsExhausted"
    batch = letter["DDBStreamBatchInfo"]
    assert batch["batchSize"] in (1, 2)
    assert f"/{names['Table']}/stream/" in batch["streamArn"]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"Enrichment": "arn"}, "pipe p cannot run locally with Enrichment"),
        (
            {"SourceParameters": {"FilterCriteria": {"Filters": [{"Pattern": '{"a": {"b": [{"prefix": "c"}]}}'}]}}},
            "pipe p cannot run locally with a filter by",
        ),
        (
            {"TargetParameters": {"EventBridgeEventBusParameters": {"Resources": [{"Ref": "X"}]}}},
            "pipe p cannot run locally with a parameter that refers to",
        ),
    ],
)
def test_what_the_stand_in_does_not_have_fails(properties: dict[str, Any], message: str) -> None:
    pipe = Resource("Stack", "Pipe", "p", "AWS::Pipes::Pipe", properties)
    with pytest.raises(LocalError, match=message):
        StreamPipeDefinition.of(pipe, DESCRIBED, [])
