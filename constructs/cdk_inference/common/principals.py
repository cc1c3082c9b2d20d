"""The services of AWS that take roles of this library, each on behalf of one account only."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam


def pipes_principal(stack: Stack) -> iam.ServicePrincipal:
    """Return EventBridge Pipes, for pipes of the stack's account and Region."""
    return iam.ServicePrincipal(
        "pipes.amazonaws.com",
        conditions={
            "StringEquals": {"aws:SourceAccount": stack.account},
            "ArnLike": {"aws:SourceArn": stack.format_arn(service="pipes", resource="pipe", resource_name="*")},
        },
    )
