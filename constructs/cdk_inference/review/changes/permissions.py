"""Compares who may do what: the statements of all policies in two templates."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping

if TYPE_CHECKING:
    from cdk_inference.review.template import Resource, Template

ANYBODY = ("*", "AWS:*")

# People know the function that a role is for. CDK's names for the role itself say nothing more.
_ROLE_ENDS = ("/Role", "/ServiceRole")
_POLICY_TYPES = (
    "AWS::IAM::GroupPolicy",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Policy",
    "AWS::IAM::RolePolicy",
    "AWS::IAM::UserPolicy",
)
_OWNERS = ("Roles", "Users", "Groups", "RoleName", "UserName", "GroupName")
_PRINCIPALS = ("AWS::IAM::Role", "AWS::IAM::User", "AWS::IAM::Group")
_LAMBDA_ACTION = "lambda:InvokeFunction"
_MANAGED = "all of a managed policy"
_OUTSIDE = "all that a permissions boundary leaves out"
_WIDE_POLICIES = ("AdministratorAccess", "FullAccess", "PowerUserAccess")
_OWN_ROOT = ":iam::${AWS::AccountId}:root"

# These name where a request comes from, who makes it, or whose organization that is. Others, such as
# aws:SecureTransport, leave everybody in. A tag of a principal is chosen by its own account, and names nobody.
_NARROWING = frozenset(
    {
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalorgid",
        "aws:principalorgpaths",
        "aws:principalservicename",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceip",
        "aws:sourceorgid",
        "aws:sourceorgpaths",
        "aws:sourceowner",
        "aws:sourcevpc",
        "aws:sourcevpce",
        "aws:userid",
        "aws:vpceaccount",
        "aws:vpceorgid",
        "aws:vpceorgpaths",
        "aws:vpcsourceip",
        "elasticfilesystem:accessedviamounttarget",
        "kms:calleraccount",
    }
)
# Operators that negate, or that hold where the key is missing (IfExists, ForAllValues), do not narrow.
_NARROWING_OPERATORS = frozenset(
    {"arnequals", "arnlike", "bool", "ipaddress", "stringequals", "stringequalsignorecase", "stringlike"}
)
_INVOKERS = ("SourceArn", "SourceAccount", "PrincipalOrgID")  # the same for the permission of a function
_REFERENCE = re.compile(r"\$\{[^}]*\}")
_ARN_PARTS = 6

# AWS knows no resource for these, or Lambda asks for all network interfaces, so that "*" says nothing:
# https://docs.aws.amazon.com/service-authorization/latest/reference/
_UNRESTRICTED = frozenset(
    {
        "cloudwatch:PutMetricData",
        "dynamodb:ListStreams",
        "ecr:GetAuthorizationToken",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
        "logs:CreateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:DescribeLogGroups",
        "logs:DescribeResourcePolicies",
        "logs:GetLogDelivery",
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:UpdateLogDelivery",
        "xray:GetSamplingRules",
        "xray:GetSamplingTargets",
        "xray:PutTelemetryRecords",
        "xray:PutTraceSegments",
    }
)


@dataclass(frozen=True, order=True)
class Permission:
    """One action that somebody may, or must not, use on something.

    Parameters
    ----------
    who
        The path of a role's owner, or another principal.
    effect
        ``Allow`` or ``Deny``.
    action
        The action; with ``not`` before it, all but it.
    target
        The resource; with ``not`` before it, all but it.
    condition
        The condition as JSON, or ``""``.
    narrowed
        Whether the condition names sources, principals or organizations.
    """

    who: str
    effect: str
    action: str
    target: str
    condition: str
    narrowed: bool = False

    @property
    def wildcard(self) -> bool:
        """Whether it allows more than somebody has named: a service's actions, everything, or everybody."""
        if self.effect != "Allow":
            return False
        if self.who.endswith(_OWN_ROOT) and self.action == "kms:*":
            return False  # AWS's default: the account's own policies decide on the key
        anywhere = _is_anything(self.target) and not self.condition and self.action not in _UNRESTRICTED
        return (
            "*" in self.action
            or (self.action == _MANAGED and self.target.endswith(_WIDE_POLICIES))
            or self.action.startswith("not ")
            or self.target.startswith("not ")
            or anywhere
            or (self.who in ANYBODY and not self.narrowed)
        )


@dataclass(frozen=True)
class PermissionChange:
    """A gain or a loss of one principal on one resource.

    Parameters
    ----------
    stack
        The path of the stack.
    gained
        Whether somebody may do more: a permission is new, or a prohibition is gone.
    denied
        Whether it is about a prohibition.
    who, target, condition
        As those of `Permission`.
    actions
        The actions.
    wildcard
        Whether it allows more than somebody has named.
    """

    stack: str
    gained: bool
    denied: bool
    who: str
    actions: tuple[str, ...]
    target: str
    condition: str
    wildcard: bool


def compare(before: Template | None, after: Template) -> list[PermissionChange]:
    """Return what changes, what is gained first, and wildcards before all."""
    old = frozenset(permissions(before)) if before is not None else frozenset()
    new = frozenset(permissions(after))
    changes = [*_grouped(after.path, new - old, added=True), *_grouped(after.path, old - new, added=False)]
    return sorted(changes, key=lambda each: (not each.gained, not each.wildcard, each.who, each.target))


def permissions(template: Template) -> Iterator[Permission]:
    """Yield the permissions that the policies of a template hold; those of AWS's managed policies are their names."""
    for resource in template.resources.values():
        properties = resource.properties
        if resource.type in _POLICY_TYPES:
            owners = [owner for kind in _OWNERS for owner in listed(properties.get(kind))]
            for owner in owners or [resource.path]:
                yield from _statements(template, properties.get("PolicyDocument"), who=_owner(template, owner))
        elif resource.type in _PRINCIPALS:
            yield from _of_principal(template, resource)
        elif resource.type == "AWS::Lambda::Permission":
            action = template.text(properties.get("Action", _LAMBDA_ACTION))
            source = {key: template.text(properties[key]) for key in _INVOKERS if key in properties}
            condition = json.dumps(source, sort_keys=True) if source else ""
            who = template.text(properties.get("Principal", "*"))
            narrowed = not all(map(_is_anybodys, source.values()))
            yield Permission(who, "Allow", action, template.text(properties.get("FunctionName")), condition, narrowed)
        else:
            # In the policy of a key or a table, "*" stands for that alone. A policy that is a resource names its
            # target, and that of an endpoint is about all that is reached through it.
            apart = resource.type.endswith("Policy") or resource.type == "AWS::EC2::VPCEndpoint"
            own = None if apart else "${" + resource.path + "}"
            for document in _documents(template, properties):
                yield from _statements(template, document, own=own)


def _documents(template: Template, value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the policies in the properties of a resource, however deep; some resources take them as JSON texts."""
    if isinstance(value, Mapping) and "Statement" in value:
        yield value
    elif isinstance(value, str) or (isinstance(value, Mapping) and value.keys() & {"Fn::Join", "Fn::Sub"}):
        document = template.parsed(value)
        if document is not None and "Statement" in document:
            yield document
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _documents(template, each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _documents(template, each)


def _of_principal(template: Template, resource: Resource) -> Iterator[Permission]:
    who = _owner(template, {"Ref": resource.logical_id})
    for policy in listed(resource.properties.get("Policies")):
        yield from _statements(template, mapping(policy).get("PolicyDocument"), who=who)
    for managed in listed(resource.properties.get("ManagedPolicyArns")):
        yield Permission(who, "Allow", _MANAGED, template.text(managed), "")
    boundary = resource.properties.get("PermissionsBoundary")
    if boundary is not None:
        yield Permission(who, "Deny", _OUTSIDE, template.text(boundary), "")
    yield from _statements(template, resource.properties.get("AssumeRolePolicyDocument"), own="${" + who + "}")


def _statements(
    template: Template, document: object, *, who: str | None = None, own: str | None = None
) -> Iterator[Permission]:
    """Yield the permissions of a policy; those without a principal are of `who`."""
    for statement in listed(mapping(template.parsed(document)).get("Statement")):
        if not isinstance(statement, Mapping):
            continue
        condition = statement.get("Condition")
        shown = template.text(condition) if condition else ""
        effect = str(statement.get("Effect", "Deny"))
        narrowed = _narrows(template, condition)
        for principal in [who] if who is not None else _principals(template, statement):
            for action in _either(template, statement, "Action"):
                for target in _either(template, statement, "Resource") or [own or "*"]:
                    where = own if own is not None and target == "*" else target
                    yield Permission(principal, effect, action, where, shown, narrowed)


def _narrows(template: Template, condition: object) -> bool:
    """Return whether a condition keeps everybody out but some sources, principals or organizations."""
    return any(
        key.lower() in _NARROWING and not any(_is_anybodys(template.text(value)) for value in listed(values))
        for operator, tests in mapping(condition).items()
        if operator.lower().removeprefix("foranyvalue:") in _NARROWING_OPERATORS
        for key, values in mapping(tests).items()
    )


def _is_anything(text: str) -> bool:
    """Return whether a resource is ``*``, or an ARN that leaves the resource open, such as ``arn:aws:s3:::*``."""
    resource = _arn(text)[-1] if text.startswith("arn:") else text
    return "*" in resource and not resource.strip("*?/:")


def _is_anybodys(value: str) -> bool:
    """Return whether the value of a condition leaves everybody in, such as ``*``, ``0.0.0.0/0`` or ``false``."""
    if value.startswith("arn:") and len(parts := _arn(value)) == _ARN_PARTS and (account := parts[4]):
        return not account.strip("*?")  # anybody can have something of that name
    return _is_anything(value) or value.endswith("/0") or value.lower() == "false"


def _arn(text: str) -> list[str]:
    """Return the parts of an ARN, the last of which is the resource; colons in references divide nothing."""
    return _REFERENCE.sub("reference", text).split(":", _ARN_PARTS - 1)


def _either(template: Template, statement: Mapping[str, Any], key: str) -> list[str]:
    named = [template.text(each) for each in listed(statement.get(key))]
    return named + [f"not {template.text(each)}" for each in listed(statement.get(f"Not{key}"))]


def _principals(template: Template, statement: Mapping[str, Any]) -> list[str]:
    found = []
    for key, no in (("Principal", ""), ("NotPrincipal", "not ")):
        value = statement.get(key)
        if isinstance(value, Mapping) and not value.keys() & {"Ref", "Fn::GetAtt", "Fn::Join", "Fn::Sub"}:
            pairs = [
                (kind, _with_own_account(template, template.text(each)))
                for kind, given in value.items()
                for each in listed(given)
            ]
            found += [no + (name if kind == "Service" else f"{kind}:{name}") for kind, name in pairs]
        else:
            found += [no + template.text(each) for each in listed(value)]
    return found or ["*"]


def _with_own_account(template: Template, name: str) -> str:
    """Return a principal with the reference to the account where a template spells the stack's account out."""
    return name.replace(f"::{template.account}:", "::${AWS::AccountId}:") if template.account else name


def _owner(template: Template, owner: object) -> str:
    """Return the path of what a role is for."""
    text = template.text(owner)
    text = text[2:-1] if text.startswith("${") and text.endswith("}") else text
    for end in _ROLE_ENDS:
        text = text.removesuffix(end)
    return text


def _grouped(stack: str, found: Iterable[Permission], *, added: bool) -> list[PermissionChange]:
    groups: dict[tuple[str, str, str, str, bool], list[str]] = defaultdict(list)
    for each in found:
        groups[each.who, each.effect, each.target, each.condition, each.wildcard].append(each.action)
    return [
        PermissionChange(
            stack=stack,
            gained=added == (effect == "Allow"),
            denied=effect != "Allow",
            who=who,
            actions=tuple(sorted(actions)),
            target=target,
            condition=condition,
            wildcard=wildcard,
        )
        for (who, effect, target, condition, wildcard), actions in groups.items()
    ]
