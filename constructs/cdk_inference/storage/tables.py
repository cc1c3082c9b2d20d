"""Tables with the encryption that every part of a pipeline has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aws_cdk import aws_dynamodb as dynamodb

if TYPE_CHECKING:
    from aws_cdk import aws_kms as kms
    from constructs import Construct


def private_table(
    scope: Construct, id: str, *, key: kms.IKey | None, partition_key: str, sort_key: str | None = None, **options: Any
) -> dynamodb.TableV2:
    """Create a table whose keys are strings, encrypted with a key if there is one."""
    table = dynamodb.TableV2(
        scope,
        id,
        partition_key=dynamodb.Attribute(name=partition_key, type=dynamodb.AttributeType.STRING),
        sort_key=None if sort_key is None else dynamodb.Attribute(name=sort_key, type=dynamodb.AttributeType.STRING),
        encryption=dynamodb.TableEncryptionV2.aws_managed_key()
        if key
        else dynamodb.TableEncryptionV2.dynamo_owned_key(),
        **options,
    )
    if key is not None:
        # TableEncryptionV2.customer_managed_key refuses stacks without an explicit region, even without replicas.
        cast("dynamodb.CfnGlobalTable", table.node.default_child).add_property_override(
            "Replicas.0.SSESpecification", {"KMSMasterKeyId": key.key_arn}
        )
    return table


def enable_stream(table: dynamodb.ITable) -> str:
    """Turn the stream of a table on, and return its ARN."""
    made = cast("dynamodb.CfnGlobalTable", table.node.default_child)
    # The only view with which a table may have replicas too.
    made.stream_specification = dynamodb.CfnGlobalTable.StreamSpecificationProperty(
        stream_view_type="NEW_AND_OLD_IMAGES"
    )
    return made.attr_stream_arn
