"""The findings of cdk-nag's AwsSolutions rules that these constructs answer for, each with its reason.

An acknowledgment names the exact finding, so that it cannot hide what a user adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Acknowledgment, Stack, Validations

from cdk_inference.platform import CONTEXT_KEY

if TYPE_CHECKING:
    from aws_cdk import CfnResource
    from aws_cdk import aws_s3 as s3
    from constructs import IConstruct

_XRAY = "X-Ray's actions do not take resources, and a role that writes its trace has to have them"


def no_access_logs(bucket: s3.Bucket) -> None:
    """Acknowledge that a bucket of ours has no server access log."""
    _acknowledge(
        bucket,
        "S1",
        "access logs need a second bucket; CloudTrail data events cover it, or pass a bucket of your own that has them",
    )


def last_resort(queue: IConstruct) -> None:
    """Acknowledge that the queue for what EventBridge cannot deliver has no dead-letter queue: nobody consumes it."""
    _acknowledge(queue, "SQS3", "it is a dead-letter queue itself, that of EventBridge's rule")


def errors_logged_only(state_machine: IConstruct) -> None:
    """Acknowledge that a workflow logs what fails, not every event."""
    _acknowledge(
        state_machine,
        "SF1",
        "every event of every batch would be logged and billed; failures are, and X-Ray traces all",
    )


def tracing(scope: IConstruct) -> None:
    """Acknowledge the wildcard that tracing needs."""
    _acknowledge(scope, "IAM5[Resource::*]", _XRAY)


def tracing_and_log_delivery(scope: IConstruct) -> None:
    """Acknowledge the wildcards that a workflow needs: log delivery is set up by actions that take no resources."""
    _acknowledge(scope, "IAM5[Resource::*]", f"{_XRAY}; nor do the actions that set up a workflow's log delivery")


def objects_under(scope: IConstruct, bucket: s3.IBucket, pattern: str) -> None:
    """Acknowledge that the objects of a bucket can only be granted by a pattern."""
    resource = _render(Stack.of(scope).resolve(bucket.arn_for_objects(pattern)))
    _acknowledge(scope, f"IAM5[Resource::{resource}]", f"the objects of a bucket are named by a pattern: {pattern}")


def managed_instances_operator(role: IConstruct) -> None:
    """Acknowledge the managed policy by which Lambda starts instances of EC2: AWS adds to it what a later one needs."""
    _acknowledge(
        role,
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AWSLambdaManagedEC2ResourceOperator]",
        "the policy that AWS makes for this role; its actions are limited to what Lambda manages",
    )


def accelerator(function: CfnResource) -> None:
    """Acknowledge that neither CDK nor cfn-lint has the property AcceleratorConfig in its schema yet."""
    reason = "AcceleratorConfig is a property of AWS::Lambda::Function that is newer than the schema"
    Validations.of(function).acknowledge(Acknowledgment(id="CloudFormation-Validate::F3002", reason=reason))
    function.add_metadata("cfn-lint", {"config": {"ignore_checks": ["E3002"]}})


def python_of_the_host(function: IConstruct) -> None:
    """Acknowledge that a function of the local target has the host's version of Python, which may not be the newest."""
    if function.node.try_get_context(CONTEXT_KEY) is not None:
        _acknowledge(function, "L1", f"the context {CONTEXT_KEY} chose the version: the local target runs the host's")


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
        case _:
            return str(value)


def _acknowledge(scope: IConstruct, rule: str, reason: str) -> None:
    Validations.of(scope).acknowledge(Acknowledgment(id=f"AwsSolutions::AwsSolutions-{rule}", reason=reason))
