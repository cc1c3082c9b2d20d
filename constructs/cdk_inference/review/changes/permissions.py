"""Compares who may do what: the statements of all policies in two templates."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cdk_inference.review.template import Resource, Template, listed, mapping

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
_WIDE_POLICIES = ("AdministratorAccess", "FullAccess", "PowerUserAccess")

# AWS knows no resource for these, so that "*" says nothing.
_UNRESTRICTED = frozenset(
    {
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
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
    """

    who: str
    effect: str
    action: str
    target: str
    condition: str

    @property
    def wildcard(self) -> bool:
        """Whether it allows more than somebody has named: a service's actions, everything, or everybody."""
        if self.effect != "Allow":
            return False
        if self.who.endswith(":root") and self.action == "kms:*":
            return False  # AWS's default: the account's own policies decide on the key
        anywhere = self.target == "*" and not self.condition and self.action not in _UNRESTRICTED
        return (
            "*" in self.action
            or (self.action == _MANAGED and self.target.endswith(_WIDE_POLICIES))
            or self.action.startswith("not ")
            or self.target.startswith("not ")
            or anywhere
            or (self.who in ANYBODY and not self.condition)
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
            source = {
                key: template.text(properties[key]) for key in ("SourceArn", "SourceAccount") if key in properties
            }
            condition = json.dumps(source, sort_keys=True) if source else ""
            who = template.text(properties.get("Principal", "*"))
            yield Permission(who, "Allow", action, template.text(properties.get("FunctionName")), condition)
        else:
            # In the policy of a key or a table, "*" stands for that alone. A policy that is a resource names its
            # target, and that of an endpoint is about all that is reached through it.
            apart = resource.type.endswith("Policy") or resource.type == "AWS::EC2::VPCEndpoint"
            own = None if apart else "${" + resource.path + "}"
            for document in _documents(properties):
                yield from _statements(template, document, own=own)


def _documents(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the policies in the properties of a resource, however deep."""
    if isinstance(value, Mapping) and "Statement" in value:
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _documents(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _documents(each)


def _of_principal(template: Template, resource: Resource) -> Iterator[Permission]:
    who = _owner(template, {"Ref": resource.logical_id})
    for policy in listed(resource.properties.get("Policies")):
        yield from _statements(template, mapping(policy).get("PolicyDocument"), who=who)
    for managed in listed(resource.properties.get("ManagedPolicyArns")):
        yield Permission(who, "Allow", _MANAGED, template.text(managed), "")
    trust = mapping(resource.properties.get("AssumeRolePolicyDocument"))
    yield from _statements(template, trust, own="${" + who + "}")


def _statements(
    template: Template, document: object, *, who: str | None = None, own: str | None = None
) -> Iterator[Permission]:
    """Yield the permissions of a policy; those without a principal are of `who`."""
    for statement in listed(mapping(document).get("Statement")):
        if not isinstance(statement, Mapping):
            continue
        condition = statement.get("Condition")
        shown = template.text(condition) if condition else ""
        for principal in [who] if who is not None else _principals(template, statement):
            for action in _either(template, statement, "Action"):
                for target in _either(template, statement, "Resource") or [own or "*"]:
                    where = own if own is not None and target == "*" else target
                    yield Permission(principal, str(statement.get("Effect", "Deny")), action, where, shown)


def _either(template: Template, statement: Mapping[str, Any], key: str) -> list[str]:
    named = [template.text(each) for each in listed(statement.get(key))]
    return named + [f"not {template.text(each)}" for each in listed(statement.get(f"Not{key}"))]


def _principals(template: Template, statement: Mapping[str, Any]) -> list[str]:
    found = []
    for key, no in (("Principal", ""), ("NotPrincipal", "not ")):
        value = statement.get(key)
        if isinstance(value, Mapping) and not value.keys() & {"Ref", "Fn::GetAtt", "Fn::Join", "Fn::Sub"}:
            pairs = [(kind, template.text(each)) for kind, given in value.items() for each in listed(given)]
            found += [no + (name if kind == "Service" else f"{kind}:{name}") for kind, name in pairs]
        else:
            found += [no + template.text(each) for each in listed(value)]
    return found or ["*"]


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
