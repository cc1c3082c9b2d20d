"""The policies of a template: those of its roles, and those of its resources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping

if TYPE_CHECKING:
    from cdk_inference.review.access.names import Names
    from cdk_inference.review.template import Resource

Document = Mapping[str, Any]

_ROLE = "AWS::IAM::Role"
_MANAGED = "AWS::IAM::ManagedPolicy"
# By type: the property that names what the policy is of, and that with the policy.
_ATTACHED = {
    "AWS::S3::BucketPolicy": ("Bucket", "PolicyDocument"),
    "AWS::SNS::TopicPolicy": ("Topics", "PolicyDocument"),
    "AWS::SQS::QueuePolicy": ("Queues", "PolicyDocument"),
    "AWS::SecretsManager::ResourcePolicy": ("SecretId", "ResourcePolicy"),
}
_ROLE_POLICIES = {
    "AWS::IAM::ManagedPolicy": "Roles",
    "AWS::IAM::Policy": "Roles",
    "AWS::IAM::RolePolicy": "RoleName",
}


@dataclass(frozen=True)
class RolePolicies:
    """The policies of a role.

    Parameters
    ----------
    documents
        Its policies.
    boundary
        Its permissions boundary; None if it has none.
    all_policies, all_limits
        Whether the template has them: it does not have those of AWS, nor those of other stacks.
    """

    documents: tuple[Document, ...]
    boundary: Document | None = None
    all_policies: bool = True
    all_limits: bool = True


class Policies:
    """The policies of a template.

    Parameters
    ----------
    names
        The names in the template.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._template = names.template

    @cached_property
    def roles(self) -> dict[str, RolePolicies]:
        """The policies of roles, by the role's ARN."""
        return {self._names.arns[role.logical_id]: self._of_role(role) for role in self._template.of_type(_ROLE)}

    @cached_property
    def resources(self) -> dict[str, Document]:
        """The policies of resources, by the resource's ARN: also the trust policies of roles."""
        found: dict[str, list[Document]] = {}
        for arn, document in self._of_resources():
            found.setdefault(arn, []).append(document)
        together = {arn: [*statements(documents)] for arn, documents in found.items()}
        return {arn: _policy(each) for arn, each in together.items() if each}

    def _document(self, value: object) -> Document:
        return _policy(statements([self._names.document(value)]))

    def _of_role(self, role: Resource) -> RolePolicies:
        arn, name = self._names.arns[role.logical_id], self._names.resolve({"Ref": role.logical_id})
        documents = [mapping(each).get("PolicyDocument") for each in listed(role.properties.get("Policies"))]
        for policy in self._template.of_type(*_ROLE_POLICIES):
            owners = self._names.resolve(policy.properties.get(_ROLE_POLICIES[policy.type]))
            if {arn, name} & set(map(str, listed(owners))):
                documents.append(policy.properties.get("PolicyDocument"))
        managed = [self._managed(each) for each in listed(role.properties.get("ManagedPolicyArns"))]
        given = role.properties.get("PermissionsBoundary")
        boundary = None if given is None else self._managed(given)
        documents += [each for each in managed if each is not None]
        return RolePolicies(
            tuple(map(self._document, documents)),
            None if boundary is None else self._document(boundary),
            all_policies=None not in managed,
            all_limits=given is None or boundary is not None,
        )

    def _managed(self, value: object) -> object | None:
        """Return the document of a managed policy; None if the template does not have it."""
        arn = str(self._names.resolve(value))
        found = (each for each in self._template.of_type(_MANAGED) if self._names.arns[each.logical_id] == arn)
        return next((each.properties.get("PolicyDocument") for each in found), None)

    def _of_resources(self) -> Iterator[tuple[str, Document]]:
        by_name = self._arns_by_name()
        for resource in self._template.resources.values():
            arn, properties = self._names.arns.get(resource.logical_id, ""), resource.properties
            if resource.type in _ATTACHED:
                owner, policy = _ATTACHED[resource.type]
                for name in listed(self._names.resolve(properties.get(owner))):
                    yield by_name.get(str(name), str(name)), self._names.document(properties.get(policy))
            elif resource.type == _ROLE:
                yield arn, self._names.document(properties.get("AssumeRolePolicyDocument"))
            elif resource.type == "AWS::KMS::Key":
                yield arn, self._names.document(properties.get("KeyPolicy"))
            elif resource.type in ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"):
                for place in (properties, *map(mapping, listed(properties.get("Replicas")))):
                    yield arn, self._names.document(mapping(place.get("ResourcePolicy")).get("PolicyDocument"))
            elif resource.type == "AWS::Lambda::Permission":
                yield self._of_function(mapping(self._names.resolve(properties)))

    def _of_function(self, permission: Mapping[str, Any]) -> tuple[str, Document]:
        """Return a function, version or alias, and the policy that a permission on it becomes."""
        name = str(permission.get("FunctionName"))
        prefix = f"arn:aws:lambda:{self._names.region}:{self._names.account}:function:"
        target = name if name.startswith("arn:") else f"{prefix}{name}"
        conditions: dict[str, dict[str, Any]] = {}
        for operator, key, given in (
            ("ArnLike", "aws:SourceArn", "SourceArn"),
            ("StringEquals", "aws:SourceAccount", "SourceAccount"),
            ("StringEquals", "aws:PrincipalOrgID", "PrincipalOrgID"),
        ):
            if given in permission:
                conditions.setdefault(operator, {})[key] = permission[given]
        who = str(permission.get("Principal", "*"))
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": who} if who.endswith(".amazonaws.com") else {"AWS": who},
            "Action": permission.get("Action", "lambda:InvokeFunction"),
            "Resource": target,
            "Condition": conditions,
        }
        return target, {"Statement": [statement]}

    def _arns_by_name(self) -> Mapping[str, str]:
        """Return the ARNs by what ``Ref`` returns: the name of a bucket, and the address of a queue."""
        return {str(self._names.resolve({"Ref": name})): arn for name, arn in self._names.arns.items()}


def statements(documents: Iterable[Document]) -> Iterator[Mapping[str, Any]]:
    """Yield the statements of policies, in the one form that a simulator takes."""
    for document in documents:
        for statement in listed(document.get("Statement")):
            if not isinstance(statement, Mapping):
                continue
            found = dict(statement)
            for element in ("Action", "NotAction", "Resource", "NotResource"):
                if element in found:
                    found[element] = [str(each) for each in listed(found[element])]
            for element in ("Principal", "NotPrincipal"):
                if element in found:
                    found[element] = _principal(found[element])
            if "Condition" in found:
                found["Condition"] = {
                    operator: {key: [_text(each) for each in listed(values)] for key, values in mapping(tests).items()}
                    for operator, tests in mapping(found["Condition"]).items()
                }
            yield found


def _policy(found: Iterable[Mapping[str, Any]]) -> Document:
    return {"Version": "2012-10-17", "Statement": list(found)}


def _principal(value: object) -> Any:  # noqa: ANN401 - a text, or texts by kind
    if isinstance(value, Mapping):
        return {kind: [str(each) for each in listed(given)] for kind, given in value.items()}
    return "*" if value == "*" else {"AWS": [str(each) for each in listed(value)]}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
