"""A synthesized template, with its references resolved to the names and ARNs of a made-up account."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCOUNT, REGION, PARTITION = "111122223333", "eu-west-1", "aws"
OTHER_ACCOUNT = "999988887777"

PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": PARTITION,
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "Stack",
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/Stack/0a1b2c3d-1111-2222-3333-444455556666",
}

# By type: the ARN after the account; `{}` is the resource's name.
_ARNS = {
    "AWS::CloudWatch::Alarm": "cloudwatch:{region}:{account}:alarm:{}",
    "AWS::DynamoDB::GlobalTable": "dynamodb:{region}:{account}:table/{}",
    "AWS::EC2::SecurityGroup": "ec2:{region}:{account}:security-group/{}",
    "AWS::EC2::Subnet": "ec2:{region}:{account}:subnet/{}",
    "AWS::Events::Rule": "events:{region}:{account}:rule/{}",
    "AWS::IAM::Role": "iam::{account}:role/{}",
    "AWS::KMS::Key": "kms:{region}:{account}:key/{}",
    "AWS::Lambda::CapacityProvider": "lambda:{region}:{account}:capacity-provider:{}",
    "AWS::Lambda::Function": "lambda:{region}:{account}:function:{}",
    "AWS::Logs::LogGroup": "logs:{region}:{account}:log-group:{}:*",
    "AWS::Pipes::Pipe": "pipes:{region}:{account}:pipe/{}",
    "AWS::S3::Bucket": "s3:::{}",
    "AWS::SNS::Topic": "sns:{region}:{account}:{}",
    "AWS::SQS::Queue": "sqs:{region}:{account}:{}",
    "AWS::SecretsManager::Secret": "secretsmanager:{region}:{account}:secret:{}-AbCdEf",
    "AWS::SageMaker::Endpoint": "sagemaker:{region}:{account}:endpoint/{}",
    "AWS::StepFunctions::StateMachine": "states:{region}:{account}:stateMachine:{}",
}
_NAMES = {
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SageMaker::Endpoint": "EndpointName",
}
# `Ref` is the ARN of these, and the name of all others.
_REF_IS_ARN = {"AWS::SNS::Topic", "AWS::SecretsManager::Secret", "AWS::StepFunctions::StateMachine"}


def arn(service_and_resource: str, account: str = ACCOUNT) -> str:
    """Return an ARN of the made-up account, such as of ``s3:::{bucket}``."""
    return f"arn:{PARTITION}:" + service_and_resource.replace("{region}", REGION).replace("{account}", account)


def aslist(value: Any) -> list[Any]:
    """Return a list of what a template may write as a list or as its only member."""
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Part:
    """A resource of a template.

    Parameters
    ----------
    id, kind
        Its logical id and its type.
    arn, ref
        Its ARN, or its physical name if it has none, and what `Ref` returns.
    properties
        With all references resolved.
    """

    id: str
    kind: str
    arn: str
    ref: str
    properties: Mapping[str, Any] = field(repr=False)


class Template:
    """A template.

    Parameters
    ----------
    template
        As CDK wrote it.
    """

    def __init__(self, template: Mapping[str, Any]) -> None:
        self._resources: Mapping[str, Mapping[str, Any]] = template["Resources"]

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The resources, by logical id."""
        return {
            id: Part(id, one["Type"], self._arn(id), self._ref(id), self.resolve(one.get("Properties", {})))
            for id, one in self._resources.items()
        }

    def of(self, *kinds: str) -> list[Part]:
        """Return the resources of these types."""
        return [part for part in self.parts.values() if part.kind in kinds]

    def named(self, *names: Any) -> Part | None:
        """Return the resource that has one of these as its ARN or as what `Ref` returns."""
        return next((part for part in self.parts.values() if part.arn in names or part.ref in names), None)

    def attached(self, kind: str, prop: str, part: Part) -> dict[str, Any] | None:
        """Return the policy that a separate resource gives a part; ``None`` if there is none.

        Parameters
        ----------
        kind, prop
            Type of the policies, and the property that names what they are attached to.
        part
            The part that the policy may be attached to.
        """
        statements = [
            statement
            for policy in self.of(kind)
            if {part.arn, part.ref} & set(aslist(policy.properties[prop]))
            for statement in policy.properties["PolicyDocument"]["Statement"]
        ]
        return {"Version": "2012-10-17", "Statement": statements} if statements else None

    def resolve(self, value: Any) -> Any:
        """Return a value with its references and functions replaced by what they would be."""
        if isinstance(value, list):
            return [self.resolve(one) for one in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self._ref(argument)
            if name.startswith("Fn::"):
                return self._call(name, argument)
        return {name: self.resolve(one) for name, one in value.items()}

    def _call(self, name: str, argument: Any) -> Any:
        if name == "Fn::GetAtt":
            return self._attribute(*argument)
        if name == "Fn::Sub":
            text = argument if isinstance(argument, str) else argument[0]
            more = {} if isinstance(argument, str) else self.resolve(argument[1])
            return re.sub(r"\$\{([^!}]+)\}", lambda m: str(more.get(m[1]) or self._dotted(m[1])), text)
        argument = self.resolve(argument)
        if name == "Fn::Join":
            return argument[0].join(str(one) for one in argument[1])
        if name == "Fn::Select":
            return argument[1][int(argument[0])]
        if name == "Fn::Split":
            return argument[1].split(argument[0])
        return f"{name}({argument})"

    def _dotted(self, name: str) -> Any:
        id, _, attribute = name.partition(".")
        return self._attribute(id, attribute) if attribute else self._ref(id)

    def _ref(self, id: str) -> Any:
        if id in PSEUDO:
            return PSEUDO[id]
        resource = self._resources.get(id)
        if resource is None:  # a parameter
            return id
        kind = resource["Type"]
        if kind in _REF_IS_ARN:
            return self._arn(id)
        if kind in ("AWS::Lambda::Version", "AWS::Lambda::Alias"):
            properties = resource["Properties"]
            function = self.resolve(properties["FunctionName"])
            name = function.rpartition(":")[2]
            qualifier = "7" if kind.endswith("Version") else self.resolve(properties["Name"])
            return arn(_ARNS["AWS::Lambda::Function"].format(name, region=REGION, account=ACCOUNT)) + f":{qualifier}"
        if kind == "AWS::SQS::Queue":
            return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{id}"
        return self._name(id)

    def _name(self, id: str) -> str:
        resource = self._resources[id]
        given = resource.get("Properties", {}).get(_NAMES.get(resource["Type"], ""))
        if given is not None:
            return str(self.resolve(given))
        return id.lower() if resource["Type"] == "AWS::S3::Bucket" else id

    def _arn(self, id: str) -> str:
        kind = self._resources[id]["Type"]
        if kind in _ARNS:
            return arn(_ARNS[kind].format(self._name(id), region=REGION, account=ACCOUNT))
        return str(self._ref(id))

    def _attribute(self, id: str, name: str) -> Any:
        if name in ("Arn", "TopicArn", "AliasArn", "FunctionArn"):
            return self._arn(id)
        if name == "StreamArn":
            return f"{self._arn(id)}/stream/2026-01-01T00:00:00.000"
        if name == "Id" and self._resources[id]["Type"] == "AWS::SecretsManager::Secret":
            return self._arn(id)
        if name == "Version":
            return "7"
        if name.endswith("Name"):
            return self._name(id)
        return f"{id}.{name}"


def policies_of(template: Template, role: Part) -> Iterator[dict[str, Any]]:
    """Yield the policies of a role, its managed ones left out."""
    for inline in role.properties.get("Policies", ()):
        yield inline["PolicyDocument"]
    for policy in template.of("AWS::IAM::Policy"):
        if role.id in policy.properties["Roles"]:
            yield policy.properties["PolicyDocument"]
