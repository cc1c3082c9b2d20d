"""The key that encrypts a pipeline's data, and grants on it without wildcards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Annotations, ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from constructs import Construct

ENCRYPT = ("kms:Decrypt", "kms:GenerateDataKey")
"""What a writer needs: S3, SQS and DynamoDB decrypt a data key for multipart and batched writes too."""

DECRYPT = ("kms:Decrypt",)

TABLE = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey")
"""What DynamoDB asks of whoever writes to a table under a customer managed key."""

_LOGS = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey")


def create_key(scope: Construct, id: str, *, removal_policy: RemovalPolicy) -> kms.Key:
    """Create a rotating customer managed key that CloudWatch Logs of this account may use."""
    return kms.Key(
        scope,
        id,
        description=f"encrypts the data of {scope.node.path}",
        enable_key_rotation=True,
        removal_policy=removal_policy,
    )


def allow_logs(key: kms.IKey, scope: Construct) -> None:
    """Let CloudWatch Logs encrypt this stack's log groups with the key.

    The policy of an imported key cannot be changed from here: a warning says what it must contain.
    """
    stack = Stack.of(scope)
    result = key.add_to_resource_policy(
        iam.PolicyStatement(
            actions=list(_LOGS),
            principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
            resources=["*"],  # in a key policy: this key
            conditions={
                "ArnLike": {
                    "kms:EncryptionContext:aws:logs:arn": stack.format_arn(
                        service="logs",
                        resource="log-group",
                        resource_name="*",
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                }
            },
        )
    )
    if not result.statement_added:
        warn_of_imported_key(scope, "logs.<region>.amazonaws.com", _LOGS)


def warn_of_imported_key(scope: Construct, service: str, actions: tuple[str, ...]) -> None:
    """Say what the policy of a key must contain that cannot be changed from this stack."""
    Annotations.of(scope).add_warning_v2(
        f"cdk-inference:imported-key-{service.partition('.')[0]}",
        f"the policy of the imported encryption key must allow {service} the actions {', '.join(actions)}; "
        "it cannot be changed from this stack (docs/security.md has the statement)",
    )


def grant(key: kms.IKey | None, grantee: iam.IGrantable, actions: tuple[str, ...]) -> None:
    """Grant exact actions on the key, if there is one."""
    if key is not None:
        # Not a construct of ours: CDK would ask it for its principal across languages, seven times.
        key.grant(grantee.grant_principal, *actions)
