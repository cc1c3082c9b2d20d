"""The services of AWS that take roles of this library, each on behalf of one account only."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam


def pipes_principal(stack: Stack) -> iam.ServicePrincipal:
    """Return EventBridge Pipes, for a pipe of this account and Region only."""
    return _on_behalf_of(stack, "pipes", "pipe")


def events_principal(stack: Stack) -> iam.ServicePrincipal:
    """Return EventBridge, for a rule of this account and Region only."""
    return _on_behalf_of(stack, "events", "rule")


def _on_behalf_of(stack: Stack, service: str, resource: str) -> iam.ServicePrincipal:
    return iam.ServicePrincipal(
        f"{service}.amazonaws.com",
        conditions={
            "StringEquals": {"aws:SourceAccount": stack.account},
            "ArnLike": {"aws:SourceArn": stack.format_arn(service=service, resource=resource, resource_name="*")},
        },
    )
