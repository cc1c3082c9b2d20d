"""Tables of DynamoDB as every part makes them: on demand, encrypted, with backups."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import aws_dynamodb as dynamodb

from cdk_inference.storage.removal import data_removal_policy

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct


def private_table(
    scope: Construct,
    id: str,
    *,
    partition_key: str,
    sort_key: str,
    expiry_attribute: str,
    encryption_key: kms.IKey | None,
    removal_policy: RemovalPolicy | None,
    point_in_time_recovery: bool = True,
    deletion_protection: bool = False,
) -> dynamodb.TableV2:
    """Create a table whose two keys are strings.

    Parameters
    ----------
    partition_key, sort_key, expiry_attribute
        Names of attributes.
    encryption_key, removal_policy, point_in_time_recovery, deletion_protection
        As those of `ResultsTable`.
    """
    table = dynamodb.TableV2(
        scope,
        id,
        partition_key=dynamodb.Attribute(name=partition_key, type=dynamodb.AttributeType.STRING),
        sort_key=dynamodb.Attribute(name=sort_key, type=dynamodb.AttributeType.STRING),
        time_to_live_attribute=expiry_attribute,
        encryption=dynamodb.TableEncryptionV2.aws_managed_key()
        if encryption_key
        else dynamodb.TableEncryptionV2.dynamo_owned_key(),
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=point_in_time_recovery
        ),
        deletion_protection=deletion_protection,
        removal_policy=data_removal_policy(scope, removal_policy),
    )
    if encryption_key is not None:
        # TableEncryptionV2.customer_managed_key refuses stacks without an explicit region, even without replicas.
        cast("dynamodb.CfnGlobalTable", table.node.default_child).add_property_override(
            "Replicas.0.SSESpecification", {"KMSMasterKeyId": encryption_key.key_arn}
        )
    return table
