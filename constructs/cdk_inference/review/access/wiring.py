"""The calls by which the parts of an app are wired, whatever policies say: a rule feeds a queue, a pipe empties it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping
from cdk_inference.review.template import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cdk_inference.review.access.names import Names
    from cdk_inference.review.access.policies import Policies
    from cdk_inference.review.template import Resource

ROLES = ("Credentials", "CredentialsArn", "ExecutionRoleArn", "Role", "RoleArn")
"""The properties, however deep, in which a resource names the role that it calls with."""

_TAKES = {
    "dynamodb": ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"),
    "kinesis": ("kinesis:GetRecords", "kinesis:GetShardIterator"),
    "sqs": ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"),
}
"""The calls of a pipe or an event source mapping, by the service of its source."""

_GIVES = {
    "events": "events:PutEvents",
    "kinesis": "kinesis:PutRecord",
    "lambda": "lambda:InvokeFunction",
    "sns": "sns:Publish",
    "sqs": "sqs:SendMessage",
    "states": "states:StartExecution",
}
"""The call that hands something over, by the service of the target."""

_SERVICES = {
    "AWS::Lambda::Function": "lambda.amazonaws.com",
    "AWS::Pipes::Pipe": "pipes.amazonaws.com",
    "AWS::Scheduler::Schedule": "scheduler.amazonaws.com",
    "AWS::StepFunctions::StateMachine": "states.amazonaws.com",
}
"""The services that take the role of such a resource."""

_SAYS_NOTHING = ("/Function", "/StateMachine")
"""The ends of paths that say no more than the type of the resource does; the names of roles' owners lack them."""

_KEYS = ("KMSMasterKeyID", "KMSMasterKeyId", "KmsKeyArn", "KmsKeyId", "KmsMasterKeyId")
_KEY_CALLS = ("kms:Decrypt", "kms:GenerateDataKey")

Source = tuple[tuple[str, str], ...]
"""The condition keys that say for whom a service calls."""


@dataclass(frozen=True, order=True)
class Edge:
    """A call that a part of an app makes.

    Parameters
    ----------
    who
        The path of the part, as people know it.
    principal
        The role, as its path in ``${…}``, or the name of a service.
    action
        The call.
    resource
        The ARN, with the path of the resource in ``${…}`` if the template has it.
    context
        The condition keys of the call, with their values.
    """

    who: str
    principal: str
    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = field(default=())


class Wiring:
    """The calls by which the parts of a template are wired.

    Parameters
    ----------
    names, policies
        The names and the policies in it.
    """

    def __init__(self, names: Names, policies: Policies) -> None:
        self._names = names
        self._policies = policies
        self._template = names.template

    @cached_property
    def edges(self) -> frozenset[Edge]:
        """All of them."""
        return frozenset(edge for resource in self._template.resources.values() for edge in self._of(resource))

    def keys_of(self, resource: Resource) -> list[str]:
        """Return the logical ids of the keys that a resource is encrypted with."""
        return [
            name
            for value in named(resource.properties, _KEYS)
            for name in references(value)
            if name in self._template.resources and self._template.resources[name].type == "AWS::KMS::Key"
        ]

    def _of(self, resource: Resource) -> Iterator[Edge]:
        properties = mapping(self._names.resolve(resource.properties))
        arn = self._names.arns.get(resource.logical_id, "")
        source = (("aws:SourceAccount", self._names.account), ("aws:SourceArn", self._names.with_paths(arn)))
        for role in self._roles_of(resource):
            if resource.type in _SERVICES:
                context = () if resource.type == "AWS::Lambda::Function" else source
                yield self._edge(shown_path(resource), _SERVICES[resource.type], "sts:AssumeRole", role, context)
        match resource.type:
            case "AWS::Events::Rule":
                yield from self._of_rule(resource, properties, source)
            case "AWS::Pipes::Pipe":
                yield from self._of_pipe(resource, properties)
            case "AWS::Lambda::EventSourceMapping":
                yield from self._of_mapping(properties)
            case "AWS::SNS::Subscription":
                topic = (("aws:SourceArn", self._names.with_paths(str(properties.get("TopicArn")))),)
                yield from self._handed(shown_path(resource), "sns.amazonaws.com", properties.get("Endpoint"), topic)
            case "AWS::S3::Bucket" | "Custom::S3BucketNotifications":
                yield from self._of_notifications(resource, properties)
            case "AWS::Scheduler::Schedule":
                target = mapping(properties.get("Target"))
                yield from self._called(shown_path(resource), target.get("RoleArn"), target.get("Arn"))
            case "AWS::StepFunctions::StateMachine":
                yield from self._of_machine(resource, properties)
            case "AWS::Logs::LogGroup":
                about = (("kms:EncryptionContext:aws:logs:arn", arn.removesuffix(":*")),)
                service = f"logs.{self._names.region}.amazonaws.com"
                for key in self.keys_of(resource):
                    for call in _KEY_CALLS:
                        yield self._edge(shown_path(resource), service, call, self._names.arns[key], about)

    def _of_rule(self, rule: Resource, properties: Mapping[str, Any], source: Source) -> Iterator[Edge]:
        for target in map(mapping, listed(properties.get("Targets"))):
            dead_letters = mapping(target.get("DeadLetterConfig")).get("Arn")
            if "RoleArn" in target:
                yield self._edge(
                    shown_path(rule), "events.amazonaws.com", "sts:AssumeRole", str(target["RoleArn"]), source
                )
                yield from self._called(shown_path(rule), target["RoleArn"], target.get("Arn"))
            else:
                yield from self._handed(shown_path(rule), "events.amazonaws.com", target.get("Arn"), source)
            yield from self._handed(shown_path(rule), "events.amazonaws.com", dead_letters, source)

    def _of_pipe(self, pipe: Resource, properties: Mapping[str, Any]) -> Iterator[Edge]:
        role = properties.get("RoleArn")
        yield from self._taken(shown_path(pipe), role, properties.get("Source"))
        target = str(properties.get("Target"))
        machine = mapping(mapping(properties.get("TargetParameters")).get("StepFunctionStateMachineParameters"))
        if ":states:" in target and machine.get("InvocationType") == "REQUEST_RESPONSE":
            yield from self._by_role(shown_path(pipe), role, ("states:StartSyncExecution",), target)
        else:
            yield from self._called(shown_path(pipe), role, target)

    def _of_mapping(self, properties: Mapping[str, Any]) -> Iterator[Edge]:
        name = str(properties.get("FunctionName"))
        arn = name if name.startswith("arn:") else f":function:{name}"
        for function in self._template.of_type("AWS::Lambda::Function"):
            own = self._names.arns[function.logical_id]
            if own.endswith(arn) or arn.startswith(f"{own}:"):
                role = self._names.resolve(function.properties.get("Role"))
                yield from self._taken(shown_path(function), role, properties.get("EventSourceArn"))

    def _of_notifications(self, resource: Resource, properties: Mapping[str, Any]) -> Iterator[Edge]:
        bucket = properties.get("BucketName") if resource.type.startswith("Custom::") else None
        arn = self._names.arns.get(resource.logical_id, "") if bucket is None else f"arn:aws:s3:::{bucket}"
        source = (("aws:SourceAccount", self._names.account), ("aws:SourceArn", self._names.with_paths(arn)))
        found = mapping(properties.get("NotificationConfiguration"))
        who = self._names.owner(arn)
        for kind, names in (
            ("Queue", ("QueueArn", "Queue")),
            ("Topic", ("TopicArn", "Topic")),
            ("Lambda", ("Function", "LambdaFunctionArn")),
        ):
            for each in listed(found.get(f"{kind}Configurations", found.get(f"{kind}FunctionConfigurations"))):
                target = next((mapping(each)[name] for name in names if name in mapping(each)), None)
                yield from self._handed(shown_path(who) if who else arn, "s3.amazonaws.com", target, source)

    def _of_machine(self, machine: Resource, properties: Mapping[str, Any]) -> Iterator[Edge]:
        definition = self._names.document(properties.get("Definition", properties.get("DefinitionString")))
        for state in _states(definition):
            what = str(state.get("Resource")).rpartition(":states:::")[2]
            given = mapping(state.get("Arguments", state.get("Parameters")))
            if what.startswith("lambda:invoke"):
                function = str(given.get("FunctionName"))
                yield from self._by_role(
                    shown_path(machine), properties.get("RoleArn"), ("lambda:InvokeFunction",), function
                )
            elif what.startswith("sqs:sendMessage"):
                queue = self._queues.get(str(given.get("QueueUrl")))
                yield from self._by_role(shown_path(machine), properties.get("RoleArn"), ("sqs:SendMessage",), queue)

    @cached_property
    def _queues(self) -> dict[str, str]:
        """The ARNs of queues by their addresses."""
        queues = self._template.of_type("AWS::SQS::Queue")
        return {
            str(self._names.resolve({"Ref": each.logical_id})): self._names.arns[each.logical_id] for each in queues
        }

    def _taken(self, who: str, role: object, source: object) -> Iterator[Edge]:
        yield from self._by_role(who, role, _TAKES.get(_service(source), ()), source)

    def _called(self, who: str, role: object, target: object) -> Iterator[Edge]:
        """Yield the call with a role that hands something over."""
        action = _GIVES.get(_service(target))
        yield from self._by_role(who, role, (action,) if action else (), target)

    def _by_role(self, who: str, role: object, actions: Sequence[str], target: object) -> Iterator[Edge]:
        if str(role) in self._policies.roles:
            for action in actions:
                yield self._edge(who, self._names.with_paths(str(role)), action, str(target))

    def _handed(self, who: str, service: str, target: object, source: Source) -> Iterator[Edge]:
        """Yield the call of a service that hands something over, and its calls of the target's key."""
        action = _GIVES.get(_service(target))
        owner = self._names.owner(str(target))
        if action is None or owner is None:
            return
        yield self._edge(who, service, action, str(target), source)
        for key in self.keys_of(owner):
            for call in _KEY_CALLS:
                yield self._edge(who, service, call, self._names.arns[key], source)

    def _edge(self, who: str, principal: str, action: str, target: str, context: Source = ()) -> Edge:
        return Edge(who, principal, action, self._names.with_paths(target), context)

    def _roles_of(self, resource: Resource) -> list[str]:
        arns = (str(self._names.resolve(value)) for value in named(resource.properties, ROLES))
        return [arn for arn in arns if arn in self._policies.roles]


def named(value: object, keys: Sequence[str]) -> Iterator[Any]:
    """Yield the values of properties with some names, however deep."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from named(each, keys)
    for key, each in mapping(value).items():
        if key in keys:
            yield each
        yield from named(each, keys)


def _states(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in map(mapping, mapping(machine.get("States")).values()):
        yield state
        for inner in (state.get("ItemProcessor"), state.get("Iterator"), *listed(state.get("Branches"))):
            yield from _states(mapping(inner))


def shown_path(resource: Resource) -> str:
    """Return the path of a resource as people know it."""
    path = resource.path
    for end in _SAYS_NOTHING:
        path = path.removesuffix(end)
    return path


def _service(arn: object) -> str:
    parts = str(arn).split(":")
    return parts[2] if parts[0] == "arn" and len(parts) > 2 else ""  # noqa: PLR2004 - the third part of an ARN
