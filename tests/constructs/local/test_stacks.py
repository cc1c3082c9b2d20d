"""Stacks find what is deployed by the name that our metadata gives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack


class CloudFormation:
    """A client that knows one stack, with logs of these names."""

    def __init__(self, *names: str, template: str = "") -> None:
        self._names = names
        self._template = template

    def get_template(self, **_: Any) -> dict[str, Any]:
        if self._template:
            return {"TemplateBody": self._template}
        facts = {name: {"role": "audit-log", "log": f"Stack/{name}"} for name in self._names}
        resources = {name: {"Type": "Any", "Metadata": {"cdk-inference": each}} for name, each in facts.items()}
        return {"TemplateBody": {"Resources": {**resources, "Other": {"Type": "Any"}}}}

    def describe_stacks(self, **_: Any) -> dict[str, Any]:
        return {"Stacks": [{"Parameters": [{"ParameterKey": "OfParent", "ParameterValue": "inbox-of-parent"}]}]}

    def describe_stack_resources(self, **_: Any) -> dict[str, Any]:
        found = [{"LogicalResourceId": name, "PhysicalResourceId": name.lower()} for name in (*self._names, "Other")]
        return {"StackResources": found}


def find(log: str | None, *names: str) -> str:
    missing = "stack must have a log, {}; add one"
    stack = Stack(CloudFormation(*names), "Stack")
    return stack.the_one("audit-log", log=log, missing=missing, error=InferenceError).physical_id


def test_a_name_may_be_left_out_if_there_is_one() -> None:
    assert find(None, "A") == find("Stack/A", "A") == find("Stack/A", "A", "B") == "a"


@pytest.mark.parametrize(
    ("log", "names", "message"),
    [
        (None, (), r"^stack must have a log, got 'Stack'; add one$"),
        (None, ("B", "A"), r"^log must be one of Stack/A, Stack/B, got none; name one$"),
        ("Stack/C", ("A",), r"^log must be one of Stack/A, got 'Stack/C'$"),
    ],
)
def test_a_name_that_is_not_clear_fails(log: str | None, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        find(log, *names)


def test_facts_of_a_nested_stack_may_refer_to_its_parent() -> None:
    facts = {"bucket": {"Ref": "OfParent"}, "table": {"Ref": "Other"}, "region": {"Ref": "AWS::Region"}, "note": {}}
    resources = {"Queue": {"Type": "Any", "Metadata": {"cdk-inference": facts}}, "Other": {"Type": "Any"}}
    client = CloudFormation("Queue", template=json.dumps({"Resources": resources}))
    assert Stack(client, "Nested").resources()[0].metadata == {
        "bucket": "inbox-of-parent",
        "table": "other",
        "region": None,
        "note": {},
    }


def test_a_template_in_yaml_reads_as_in_json() -> None:
    written = """
AWSTemplateFormatVersion: 2010-09-09
Conditions:
  Large: !Not [!Equals [!Ref Size, small]]
  Either: !Or [!Condition Large, !Condition Large]
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      Policies: [{PolicyDocument: {Version: 2012-10-17, Statement: {Resource: !GetAtt Nested.Outputs.Arn}}}]
      Description: !Sub ["${Name}", {Name: !Select [0, !Split [".", a.b]]}]
"""
    description = {"Fn::Sub": ["${Name}", {"Name": {"Fn::Select": [0, {"Fn::Split": [".", "a.b"]}]}}]}
    statement = {"Resource": {"Fn::GetAtt": ["Nested", "Outputs.Arn"]}}
    policies = [{"PolicyDocument": {"Version": "2012-10-17", "Statement": statement}}]
    assert Stack(CloudFormation(template=written), "Stack").template() == {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Conditions": {
            "Large": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Size"}, "small"]}]},
            "Either": {"Fn::Or": [{"Condition": "Large"}, {"Condition": "Large"}]},
        },
        "Resources": {
            "Role": {"Type": "AWS::IAM::Role", "Properties": {"Policies": policies, "Description": description}}
        },
    }
