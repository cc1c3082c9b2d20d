"""The names and ARNs of a template's resources; what only a deployment decides is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import listed, mapping

if TYPE_CHECKING:
    from cdk_inference.review.template import Resource, Template

ACCOUNT = "111122223333"
"""The account of a stack that could be deployed to any."""

_REGION = "us-east-1"
_VERSION = "7"  # of a function
_STREAM = "stream/2026-01-01T00:00:00.000"

# By type: the ARN after the partition, and the property with the name.
_KINDS = {
    "AWS::CloudWatch::Alarm": ("cloudwatch:{region}:{account}:alarm:{name}", "AlarmName"),
    "AWS::DynamoDB::GlobalTable": ("dynamodb:{region}:{account}:table/{name}", "TableName"),
    "AWS::DynamoDB::Table": ("dynamodb:{region}:{account}:table/{name}", "TableName"),
    "AWS::ECR::Repository": ("ecr:{region}:{account}:repository/{name}", "RepositoryName"),
    "AWS::Events::EventBus": ("events:{region}:{account}:event-bus/{name}", "Name"),
    "AWS::Events::Rule": ("events:{region}:{account}:rule/{name}", "Name"),
    "AWS::IAM::ManagedPolicy": ("iam::{account}:policy/{name}", "ManagedPolicyName"),
    "AWS::IAM::Role": ("iam::{account}:role/{name}", "RoleName"),
    "AWS::KMS::Key": ("kms:{region}:{account}:key/{name}", ""),
    "AWS::Kinesis::Stream": ("kinesis:{region}:{account}:stream/{name}", "Name"),
    "AWS::Lambda::Function": ("lambda:{region}:{account}:function:{name}", "FunctionName"),
    "AWS::Logs::LogGroup": ("logs:{region}:{account}:log-group:{name}:*", "LogGroupName"),
    "AWS::Pipes::Pipe": ("pipes:{region}:{account}:pipe/{name}", "Name"),
    "AWS::S3::Bucket": ("s3:::{name}", "BucketName"),
    "AWS::SNS::Topic": ("sns:{region}:{account}:{name}", "TopicName"),
    "AWS::SQS::Queue": ("sqs:{region}:{account}:{name}", "QueueName"),
    "AWS::SageMaker::Endpoint": ("sagemaker:{region}:{account}:endpoint/{name}", "EndpointName"),
    "AWS::Scheduler::Schedule": ("scheduler:{region}:{account}:schedule/default/{name}", "Name"),
    "AWS::SecretsManager::Secret": ("secretsmanager:{region}:{account}:secret:{name}-AbCdEf", "Name"),
    "AWS::StepFunctions::StateMachine": ("states:{region}:{account}:stateMachine:{name}", "StateMachineName"),
}
_REF_IS_ARN = (
    "AWS::IAM::ManagedPolicy",
    "AWS::SNS::Topic",
    "AWS::SecretsManager::Secret",
    "AWS::StepFunctions::StateMachine",
)
_QUALIFIED = ("AWS::Lambda::Alias", "AWS::Lambda::Version")
_PATH = re.compile(r"\$\{(?!aws:)(.+?)\}(.*)", re.DOTALL)  # not a variable of IAM
_REFERENCE = re.compile(r"\$\{([^}!]+)\}")


class Names:
    """The names and ARNs of a template's resources.

    A name that the template gives counts; otherwise, it is the logical id. So do the account and the Region.

    Parameters
    ----------
    template
        The template.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.account = template.account or ACCOUNT
        self.region = template.region or _REGION
        self._pseudo = {
            "AWS::AccountId": self.account,
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackName": template.stack_name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        self._being_named: set[str] = set()

    @cached_property
    def arns(self) -> dict[str, str]:
        """The ARNs by logical id; resources whose kind has none here are left out."""
        known = (*_KINDS, *_QUALIFIED)
        return {each.logical_id: self._arn(each) for each in self.template.of_type(*known)}

    @cached_property
    def _by_path(self) -> dict[str, str]:
        return {self.template.resources[name].path: arn for name, arn in self.arns.items()}

    @cached_property
    def _by_arn(self) -> dict[str, str]:
        """The logical ids by ARN; longer ARNs first, since that of an alias begins with that of its function."""
        pairs = sorted(self.arns.items(), key=lambda pair: -len(pair[1]))
        return {arn.removesuffix(":*"): name for name, arn in pairs}

    def owner(self, arn: str) -> Resource | None:
        """Return the resource that an ARN is of, such as a bucket for its objects; None if the template has none."""
        for known, name in self._by_arn.items():
            if arn == known or arn.startswith((f"{known}/", f"{known}:")):
                return self.template.resources[name]
        return None

    def with_paths(self, text: str) -> str:
        """Return a text, such as an ARN, in which a resource of the template is its path in ``${…}``."""
        found = self.owner(text)
        if found is None:
            return text
        return "${" + found.path + "}" + text.removeprefix(self.arns[found.logical_id].removesuffix(":*"))

    def with_arns(self, text: str) -> str | None:
        """Return a text of `with_paths` with the ARNs of this template; None if it has no such resource."""
        found = _PATH.fullmatch(text)
        if found is None:
            return text
        arn = self._by_path.get(found[1])
        return None if arn is None else f"{arn.removesuffix(':*')}{found[2]}"

    def resolve(self, value: object) -> Any:  # noqa: ANN401 - whatever a template holds
        """Return a value of the template with names and ARNs in the place of references."""
        if isinstance(value, list | tuple):
            return [self.resolve(each) for each in value]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref" or str(function).startswith("Fn::"):
                return self._called(str(function), argument)
        return {key: self.resolve(each) for key, each in value.items()}

    def document(self, value: object) -> Mapping[str, Any]:
        """Return a policy, which may be a JSON text; an empty mapping if it is neither."""
        found = self.resolve(value)
        if isinstance(found, str):
            try:
                found = json.loads(found)
            except (ValueError, RecursionError):
                return {}
        return mapping(found)

    def _called(self, function: str, argument: object) -> Any:  # noqa: ANN401
        found: Any = f"{function}({json.dumps(argument, sort_keys=True)})"  # known at deployment only
        match function, argument:
            case "Ref", str(name):
                found = self._ref(name)
            case "Fn::GetAtt", [str(name), str(attribute)]:
                found = self._attribute(name, attribute)
            case "Fn::GetAtt", str(text) if "." in text:
                found = self._attribute(*text.split(".", 1))
            case "Fn::Join", [str(by), [*parts]]:
                found = by.join(str(self.resolve(part)) for part in parts)
            case "Fn::Sub", str(text):
                found = self._substituted(text, {})
            case "Fn::Sub", [str(text), variables]:
                found = self._substituted(text, mapping(self.resolve(variables)))
            case "Fn::Select", [int() | str() as number, parts]:
                all_parts = listed(self.resolve(parts))
                at = int(number) if str(number).isdecimal() else len(all_parts)
                found = all_parts[at] if at < len(all_parts) else ""
            case "Fn::Split", [str(by), text] if by:
                found = str(self.resolve(text)).split(by)
            case "Fn::If", [_, one, other]:
                found = self.resolve(other if one == {"Ref": "AWS::NoValue"} else one)
        return found

    def _substituted(self, text: str, variables: Mapping[str, Any]) -> str:
        return _REFERENCE.sub(lambda found: str(variables.get(found[1]) or self._dotted(found[1])), text)

    def _dotted(self, name: str) -> Any:  # noqa: ANN401
        logical_id, dot, attribute = name.partition(".")
        return self._attribute(logical_id, attribute) if dot else self._ref(name)

    def _ref(self, name: str) -> str:
        resource = self.template.resources.get(name)
        if resource is None:
            return self._pseudo.get(name, name)
        if resource.type in (*_REF_IS_ARN, *_QUALIFIED):
            return self._arn(resource)
        if resource.type == "AWS::SQS::Queue":
            return f"https://sqs.{self.region}.amazonaws.com/{self.account}/{self._name(resource)}"
        return self._name(resource)

    def _attribute(self, name: str, attribute: str) -> str:
        resource = self.template.resources.get(name)
        if resource is None:
            return f"{name}.{attribute}"
        if attribute in ("Arn", "TopicArn", "FunctionArn", "AliasArn") or (attribute, resource.type) == (
            "Id",
            "AWS::SecretsManager::Secret",
        ):
            return self._arn(resource)
        if attribute == "StreamArn":
            return f"{self._arn(resource)}/{_STREAM}"
        if attribute == "Version":
            return _VERSION
        return self._name(resource) if attribute.endswith("Name") else f"{name}.{attribute}"

    def _name(self, resource: Resource) -> str:
        given = resource.properties.get(_KINDS.get(resource.type, ("", ""))[1])
        if given is not None and resource.logical_id not in self._being_named:
            self._being_named.add(resource.logical_id)  # a name that refers to itself has no end
            try:
                return str(self.resolve(given))
            finally:
                self._being_named.discard(resource.logical_id)
        return resource.logical_id.lower() if resource.type == "AWS::S3::Bucket" else resource.logical_id

    def _arn(self, resource: Resource) -> str:
        if resource.type in _QUALIFIED:
            return self._qualified(resource)
        form = _KINDS.get(resource.type)
        if form is None:
            return resource.logical_id
        return "arn:aws:" + form[0].format(region=self.region, account=self.account, name=self._name(resource))

    def _qualified(self, resource: Resource) -> str:
        """Return the ARN of a version or an alias of a function."""
        if resource.logical_id in self._being_named:
            return resource.logical_id
        self._being_named.add(resource.logical_id)
        try:
            function = str(self.resolve(resource.properties.get("FunctionName"))).rpartition(":")[2]
            alias = resource.type == "AWS::Lambda::Alias"
            qualifier = self.resolve(resource.properties.get("Name")) if alias else _VERSION
        finally:
            self._being_named.discard(resource.logical_id)
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{function}:{qualifier}"
