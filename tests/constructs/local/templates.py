"""Small templates with a pipe: CloudFormation creates them in a second, without the CDK CLI."""

from __future__ import annotations

import json
from typing import Any


def trust(
    conditions: dict[str, dict[str, str]] | None = None, *, service: str = "pipes.amazonaws.com", effect: str = "Allow"
) -> dict[str, object]:
    return {
        "Effect": effect,
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": conditions or {},
    }


def template(name: str, statements: list[dict[str, object]]) -> dict[str, Any]:
    """A queue, a pipe with a log configuration, and a workflow that does nothing."""
    policy = {
        "Statement": [{"Effect": "Allow", "Action": ["sqs:*", "states:StartSyncExecution"], "Resource": "*"}],
        "Version": "2012-10-17",
    }
    role = {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": statements},
        "Policies": [{"PolicyName": "Pipe", "PolicyDocument": policy}],
    }
    states = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
    arns = {part: {"Fn::GetAtt": [part, "Arn"]} for part in ("Queue", "Role", "Log")}
    return {
        "Resources": {
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name}},
            "Role": {"Type": "AWS::IAM::Role", "Properties": role},
            "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {}},
            "Machine": {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {
                    "StateMachineType": "EXPRESS",
                    "RoleArn": arns["Role"],
                    "DefinitionString": json.dumps(states),
                },
            },
            "Pipe": {
                "Type": "AWS::Pipes::Pipe",
                "Properties": {
                    "Name": name,
                    "RoleArn": arns["Role"],
                    "Source": arns["Queue"],
                    "Target": {"Ref": "Machine"},
                    "TargetParameters": {"StepFunctionStateMachineParameters": {"InvocationType": "REQUEST_RESPONSE"}},
                    "LogConfiguration": {
                        "Level": "ERROR",
                        "CloudwatchLogsLogDestination": {"LogGroupArn": arns["Log"]},
                    },
                },
            },
        }
    }


def marked(resource: dict[str, Any], role: str, **facts: object) -> dict[str, Any]:
    return {**resource, "Metadata": {"cdk-inference": {"role": role, "pipeline": "Marked", **facts}}}


def pipeline(**source: object) -> dict[str, Any]:
    """The same with an inbox, whose events nobody takes, and a table that stays empty."""
    made = template("marked", [trust()])
    resources = made["Resources"]
    resources["Queue"] = marked(resources["Queue"], "queue")
    resources["Machine"] = marked(resources["Machine"], "state-machine")
    resources["Pipe"] = marked(resources["Pipe"], "pipe")
    resources["Pipe"]["Properties"]["SourceParameters"] = {"SqsQueueParameters": source}
    resources["Inbox"] = marked({"Type": "AWS::S3::Bucket"}, "inbox", bucket={"Ref": "Inbox"})
    keys = {
        "KeySchema": [
            {"AttributeName": "object", "KeyType": "HASH"},
            {"AttributeName": "version", "KeyType": "RANGE"},
        ],
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("object", "version")],
        "BillingMode": "PAY_PER_REQUEST",
    }
    resources["Table"] = marked({"Type": "AWS::DynamoDB::Table", "Properties": keys}, "results", table={"Ref": "Table"})
    return made


def create(cloudformation: Any, name: str, body: dict[str, Any]) -> None:
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_IAM"])
    waiter = cloudformation.get_waiter("stack_create_complete")
    waiter.wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
