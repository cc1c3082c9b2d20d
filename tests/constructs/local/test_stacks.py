"""Stacks find what is deployed by the name that our metadata gives it."""

from __future__ import annotations

from typing import Any

import pytest

from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack


class CloudFormation:
    """A client that knows one stack, with logs of these names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def get_template(self, **_: Any) -> dict[str, Any]:
        facts = {name: {"role": "audit-log", "log": f"Stack/{name}"} for name in self._names}
        resources = {name: {"Type": "Any", "Metadata": {"cdk-inference": each}} for name, each in facts.items()}
        return {"TemplateBody": {"Resources": {**resources, "Other": {"Type": "Any"}}}}

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
