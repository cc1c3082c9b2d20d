"""The findings of cdk-nag that these constructs answer for, each with its reason from ``explanations.toml``.

An acknowledgment names the exact finding, so that it cannot hide what a user adds. It is written for both major
versions of cdk-nag: the third reads acknowledgments, and the second the metadata of resources.
"""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aws_cdk import Acknowledgment, CfnResource, Stack, Validations

from cdk_inference.common.platform import CONTEXT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_s3 as s3
    from constructs import IConstruct


@cache
def _explanations() -> dict[str, Any]:
    path = Path(__file__).with_name("explanations.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def explain(construct: IConstruct, *names: str, details: Iterable[str] = ()) -> None:
    """Acknowledge findings on a resource.

    Parameters
    ----------
    construct
        The resource, or the construct whose default child it is.
    *names
        Tables of ``explanations.toml``.
    details
        Details that the findings name, such as ``Resource::*``. Default: the text in the rules' brackets, if any.
    """
    findings = []
    for name in names:
        explanation = _explanations()[name]
        for rule in explanation["rules"]["cdk-nag"]:
            rule_id, _, detail = rule.removesuffix("]").partition("[")
            findings.append((rule_id, list(details) or ([detail] if detail else []), explanation["reason"]))
    _acknowledge(construct, findings)


def policy_of(role: iam.IRole, *names: str) -> None:
    """Acknowledge findings on the policy that grants to a role make; call it after the first grant."""
    policy = role.node.try_find_child("DefaultPolicy")
    if policy is not None:
        explain(policy, "inline-policy", *names)


def objects_under(role: iam.IRole, bucket: s3.IBucket, *patterns: str) -> None:
    """Acknowledge that the objects of a bucket can only be granted by a pattern."""
    arns = [bucket.arn_for_objects(pattern) for pattern in patterns]
    by_pattern(role.node.find_child("DefaultPolicy"), "objects-by-pattern", *arns)


def by_pattern(policy: IConstruct, name: str, *arns: str) -> None:
    """Acknowledge that a policy can only name its resources by these patterns."""
    stack = Stack.of(policy)
    explain(policy, name, details=[f"Resource::{_render(stack.resolve(arn))}" for arn in arns])


def accelerator(function: CfnResource) -> None:
    """Acknowledge that neither CDK nor cfn-lint has the property AcceleratorConfig in its schema yet."""
    reason = "AcceleratorConfig is a property of AWS::Lambda::Function that is newer than the schema"
    Validations.of(function).acknowledge(Acknowledgment(id="CloudFormation-Validate::F3002", reason=reason))
    function.add_metadata("cfn-lint", {"config": {"ignore_checks": ["E3002"]}})


def python_of_the_host(function: IConstruct) -> None:
    """Acknowledge that a function of the local target has the host's version of Python, which may not be the newest."""
    if function.node.try_get_context(CONTEXT_KEY) is not None:
        reason = f"the context {CONTEXT_KEY} chose the version: the local target runs the host's"
        _acknowledge(function, [("AwsSolutions-L1", [], reason)])


def alias_subscribed(subscription: CfnResource) -> None:
    """Acknowledge that CDK and cfn-lint know functions as endpoints of SNS, and not their aliases."""
    reason = "SNS invokes what the ARN names; an alias moves with its deployments, and $LATEST would not"
    Validations.of(subscription).acknowledge(Acknowledgment(id="CloudFormation-Validate::W3694", reason=reason))
    subscription.add_metadata("cfn-lint", {"config": {"ignore_checks": ["W3694"]}})


def _render(value: Any) -> str:  # noqa: ANN401 (a CloudFormation value)
    """Write a value with intrinsic functions as cdk-nag names it."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_render(part) for part in parts)
        case {}:
            return json.dumps(value, separators=(",", ":"))
        case _:
            return str(value)


def _acknowledge(construct: IConstruct, findings: Iterable[tuple[str, Sequence[str], str]]) -> None:
    """Write findings for both versions: for each its rule, the details that it names, and the reason."""
    resource = construct if isinstance(construct, CfnResource) else cast("CfnResource", construct.node.default_child)
    acknowledged, suppressed = [], []
    for rule, details, reason in findings:
        pack = rule.partition("-")[0]
        named = [f"{rule}[{detail}]" for detail in details] or [rule]
        acknowledged += [Acknowledgment(id=f"{pack}::{one}", reason=reason) for one in named]
        entry = {"id": rule, "reason": reason}
        suppressed.append({**entry, "applies_to": list(details)} if details else entry)
    Validations.of(resource).acknowledge(*acknowledged)
    before = (resource.get_metadata("cdk_nag") or {}).get("rules_to_suppress", [])
    resource.add_metadata("cdk_nag", {"rules_to_suppress": [*before, *suppressed]})
