"""A review against what is deployed, which reads templates from CloudFormation."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

import boto3
import pytest

from cdk_inference.costs.options import PipelineShape, Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.costs.recorded import METADATA_KEY, RecordedCosts
from cdk_inference.review.against import read_against
from cdk_inference.review.assembly import Assembly, read_assembly
from cdk_inference.review.deployed import deployed_labels, read_deployed
from cdk_inference.review.review import review
from cdk_inference.review.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.local import LocalCloud
    from cdk_inference.local.uploads import Pipeline


def test_the_deployed_stack_is_what_was_synthesized(
    local_cloud: LocalCloud, probe: Pipeline, ready: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in local_cloud.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    folder = ready().parent
    after = read_assembly(folder / "assembly")
    before = read_against("deployed", after, folder=folder)
    assert list(before.templates) == ["LocalProbe"]
    found = review(after, before, Traffic(items_per_month=1), Prices())
    assert (found.findings, found.diffs) == ((), ())
    nowhere = read_assembly(ready(stack="Elsewhere").parent / "assembly")
    assert read_against("deployed", nowhere, folder=folder).templates == {}


def test_nested_stacks_are_read_with_their_outer_one(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in local_cloud.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    queue = {"Type": "AWS::SQS::Queue", "Metadata": {"aws:cdk:path": "Outer/Inner/Queue/Resource"}}
    s3, cloudformation = local_cloud.client("s3"), local_cloud.client("cloudformation")
    s3.create_bucket(Bucket="templates-of-a-review")
    s3.put_object(
        Bucket="templates-of-a-review", Key="inner.json", Body=json.dumps({"Resources": {"Queue": queue}}).encode()
    )
    nested = {
        "Type": "AWS::CloudFormation::Stack",
        "Properties": {"TemplateURL": f"{local_cloud.endpoint}/templates-of-a-review/inner.json"},
        "Metadata": {"aws:cdk:path": "Outer/Inner.NestedStack/Inner.NestedStackResource"},
    }
    costs = RecordedCosts(PipelineShape(), {"main": None}).to_json()
    body = {"Resources": {"Inner": nested}, "Metadata": {METADATA_KEY: {"Outer/Photos": costs}}}
    cloudformation.create_stack(StackName="outer-of-a-review", TemplateBody=json.dumps(body))
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="outer-of-a-review", WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
    )
    app = Assembly("app", {"Outer": Template("outer-of-a-review", "Outer", body)})
    found = read_deployed(app)
    assert list(found.templates) == ["Outer", "Outer/Inner"]
    assert [resource.path for resource in found.templates["Outer/Inner"].resources.values()] == ["Queue"]
    assert found.costs == {"Outer/Photos": costs}


def test_labels_in_the_environment_and_in_the_package_of_a_function_are_read(local_cloud: LocalCloud) -> None:
    session = boto3.Session(
        aws_access_key_id=local_cloud.environment()["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=local_cloud.environment()["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    account = local_cloud.client("sts").get_caller_identity()["Account"]
    bucket, key = f"packages-{account}-us-east-1", "package.zip"
    s3 = local_cloud.client("s3")
    s3.create_bucket(Bucket=bucket)
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("large.bin", bytes(3_000_000))
        archive.writestr("options.json", json.dumps({"labels_file": "labels.txt"}))
        archive.writestr("labels.txt", "cat\ndog\n")
    s3.put_object(Bucket=bucket, Key=key, Body=package.getvalue())

    def function(bucket: object = None, **variables: str) -> dict[str, object]:
        code = {"S3Bucket": bucket or {"Fn::Sub": "packages-${AWS::AccountId}-${AWS::Region}"}, "S3Key": key}
        return {
            "Type": "AWS::Lambda::Function",
            "Properties": {"Code": code, "Environment": {"Variables": variables}},
        }

    resources = {
        "Few": function(STAGE_OPTIONS=json.dumps({"labels": ["a", "b"]})),
        "Many": function(STAGE_OPTIONS_FILE="options.json"),
        "None": function(),
        "Missing": function(STAGE_OPTIONS_FILE="nowhere.json"),
        "Denied": function(bucket="nobody-has-this", STAGE_OPTIONS_FILE="options.json"),
    }
    asked: list[str] = []
    session.events.register("before-call.s3.GetObject", lambda params, **_: asked.append(params["headers"]["Range"]))
    template = Template("S", "S", {"Resources": resources})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", local_cloud.endpoint)
        found = deployed_labels(template, session)
    assert found == {("S", "Few"): ("a", "b"), ("S", "Many"): ("cat", "dog")}
    read = [tuple(map(int, each.removeprefix("bytes=").split("-"))) for each in asked]
    assert sum(last - first + 1 for first, last in read) < len(package.getvalue())  # of three packages
