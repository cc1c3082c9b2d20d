"""Create the resources of templates in moto, and put objects into their inboxes; it runs in an environment of moto's.

Reads ``{"name": template}`` and writes ``{"name": {"lacks": [types], "problems": [texts], "checked": number}}``.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

import boto3
from moto import mock_aws
from moto.cloudformation.parsing import resource_class_from_type

REGION = "eu-west-1"
_ABSENT = "arn:aws:absent:eu-west-1:123456789012:not-in-moto"
_UNUSABLE = {
    "AWS::Lambda::EventSourceMapping",  # takes apart the ARN of an alias, which is missing too
    "AWS::Lambda::Permission",  # fails for versions
    "AWS::Lambda::Version",  # a reference to one is not a text
    "AWS::SageMaker::Endpoint",  # its list of instance types is older than the types
    "AWS::SageMaker::EndpointConfig",
    "Custom::RecordedModels",  # waits for a function that does not run
}


def main() -> None:
    """Answer for each template."""
    # The answer says what is not supported.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    said = {name: deploy(template) for name, template in json.load(sys.stdin).items()}
    json.dump(said, sys.stdout)


def deploy(template: dict[str, Any]) -> dict[str, Any]:
    """Create a stack of what moto knows, and look at what came of it."""
    with mock_aws():
        return _deploy(template)


def _deploy(template: dict[str, Any]) -> dict[str, Any]:
    resources = template["Resources"]
    kinds = {one["Type"] for one in resources.values()}
    lacks = sorted(kind for kind in kinds if kind in _UNUSABLE or resource_class_from_type(kind) is None)
    known = {id: one for id, one in resources.items() if one["Type"] not in lacks}
    body = json.dumps({"Resources": {id: _adapted(one, known) for id, one in known.items()}})
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    try:
        cloudformation.create_stack(StackName="Stack", TemplateBody=body, Capabilities=["CAPABILITY_IAM"])
    except Exception as error:
        return {"lacks": lacks, "problems": [f"{type(error).__name__}: {error}"], "checked": 1}
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName="Stack")
    made = {
        one["LogicalResourceId"]: one["PhysicalResourceId"] for page in pages for one in page["StackResourceSummaries"]
    }
    problems = [f"{id} was not created" for id in sorted(known.keys() - made.keys())]
    checked = len(known)
    for id, one in known.items():
        if one["Type"] == "AWS::Events::Rule" and "aws.s3" in one["Properties"].get("EventPattern", {}).get(
            "source", ()
        ):
            problems += _delivered(id, one["Properties"], made)
            checked += 1
    return {"lacks": lacks, "problems": problems, "checked": checked}


def _delivered(id: str, rule: dict[str, Any], made: dict[str, str]) -> list[str]:
    """Put an object that the rule is for and one that it is not for, and read what came into the queue."""
    detail = rule["EventPattern"]["detail"]
    (bucket,) = detail["bucket"]["name"]
    name = made[bucket["Ref"]] if isinstance(bucket, dict) else bucket
    prefix = detail.get("object", {}).get("key", [{"prefix": ""}])[0]["prefix"]
    s3: Any = boto3.client("s3", region_name=REGION)
    if not isinstance(bucket, dict):  # the user's
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    # A template's notifications are not read.
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"EventBridgeConfiguration": {}})
    keys = [f"{prefix}a photo.jpg", *(["elsewhere.jpg"] if prefix else [])]
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=b"x")
    queue = made[rule["Targets"][0]["Arn"]["Fn::GetAtt"][0]]
    sqs = boto3.client("sqs", region_name=REGION)
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    bodies = [json.loads(message["Body"]) for message in messages]
    came = [(body["detail-type"], body["detail"]["bucket"]["name"], body["detail"]["object"]["key"]) for body in bodies]
    wanted = [("Object Created", name, keys[0])]
    return [] if came == wanted else [f"{id} delivered {came}, and should have delivered {wanted}"]


def _adapted(resource: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return a resource without references to what moto does not know, and without assets."""
    properties = _without(resource.get("Properties", {}), known)
    if resource["Type"] == "AWS::Lambda::Function" and "S3Bucket" in properties.get("Code", {}):
        properties["Code"] = {"ZipFile": "def handler(event, context): pass"}
    return {"Type": resource["Type"], "Properties": properties}


def _without(value: Any, known: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_without(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, argument),) = value.items()
        target = argument[0] if name == "Fn::GetAtt" else argument
        if name in ("Ref", "Fn::GetAtt") and target not in known and not str(target).startswith("AWS::"):
            return _ABSENT
    return {name: _without(one, known) for name, one in value.items()}


if __name__ == "__main__":
    main()
