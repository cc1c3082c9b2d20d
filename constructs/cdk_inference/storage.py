"""Buckets and log groups with the defaults that every part of a pipeline has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

from cdk_inference import acknowledgments
from cdk_inference.removal import data_removal_policy

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct


def private_bucket(
    scope: Construct, id: str, *, key: kms.IKey | None, removal_policy: RemovalPolicy | None, **options: Any
) -> s3.Bucket:
    """Create a bucket that is encrypted, takes TLS only, and cannot be made public."""
    removal = data_removal_policy(scope, removal_policy)
    bucket = s3.Bucket(
        scope,
        id,
        encryption=s3.BucketEncryption.KMS if key else s3.BucketEncryption.S3_MANAGED,
        encryption_key=key,
        bucket_key_enabled=True if key else None,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        minimum_tls_version=1.2,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        removal_policy=removal,
        **options,
    )
    if bucket.policy is not None:  # a retained bucket must still refuse requests without TLS
        bucket.policy.apply_removal_policy(removal)
    acknowledgments.no_access_logs(bucket)
    return bucket


def log_group(
    scope: Construct,
    *,
    key: kms.IKey | None,
    removal_policy: RemovalPolicy | None,
    retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
) -> logs.LogGroup:
    """Create the log group of a part; its id is ``Logs``."""
    return logs.LogGroup(
        scope,
        "Logs",
        retention=retention,
        encryption_key=key,
        removal_policy=data_removal_policy(scope, removal_policy),
    )
