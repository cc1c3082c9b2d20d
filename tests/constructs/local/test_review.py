"""A review against what is deployed, which reads templates from CloudFormation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.review.against import read_against, read_deployed
from cdk_inference.review.assembly import Assembly, read_assembly
from cdk_inference.review.review import review
from cdk_inference.review.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

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
    body = {"Resources": {"Inner": nested}}
    cloudformation.create_stack(StackName="outer-of-a-review", TemplateBody=json.dumps(body))
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="outer-of-a-review", WaiterConfig={"Delay": 0.1, "MaxAttempts": 300}
    )
    app = Assembly("app", {"Outer": Template("outer-of-a-review", "Outer", body)})
    found = read_deployed(app).templates
    assert list(found) == ["Outer", "Outer/Inner"]
    assert [resource.path for resource in found["Outer/Inner"].resources.values()] == ["Queue"]
