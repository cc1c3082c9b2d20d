"""Buckets and log groups with the defaults that every part of a pipeline has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Aws, Fn, Names
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

from cdk_inference.common import acknowledgments
from cdk_inference.storage.removal import data_removal_policy

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms
    from constructs import Construct

STATE_MACHINE_LOGS = "/aws/vendedlogs/states"
PIPE_LOGS = "/aws/vendedlogs/pipes"
API_LOGS = "/aws/vendedlogs/apis"
"""Folders of log groups that other services write to.

The services name each log group in a policy that CloudWatch Logs has once for an account and Region. It has at most
5,120 characters: about 40 state machines fill it, and the next one fails to deploy. Log groups in ``/aws/vendedlogs``
share one statement (https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/AWS-logs-and-resource-policy.html).
"""


def private_bucket(
    scope: Construct,
    id: str,
    *,
    key: kms.IKey | None,
    removal_policy: RemovalPolicy | None,
    unversioned: str = "bucket-of-copies",
    **options: Any,
) -> s3.Bucket:
    """Create a bucket that is encrypted, takes TLS only, and cannot be made public.

    Parameters
    ----------
    key, removal_policy
        As those of CDK, and see `data_removal_policy`.
    unversioned
        The explanation why it has no versions, if it has none.
    **options
        As those of CDK's buckets.
    """
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
    names = ["bucket-without-access-logs", "bucket-without-replication"]
    if not options.get("versioned"):
        names.append(unversioned)
    if key is None:
        names.append("bucket-under-a-key-of-s3")
    acknowledgments.explain(bucket, *names)
    return bucket


def log_group(
    scope: Construct,
    *,
    key: kms.IKey | None,
    removal_policy: RemovalPolicy | None,
    retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
    folder: str | None = None,
) -> logs.LogGroup:
    """Create the log group of a part; its id is ``Logs``.

    Parameters
    ----------
    key, retention, removal_policy
        As those of CDK.
    folder
        Where its name begins, such as `STATE_MACHINE_LOGS`. Default: CloudFormation makes a name.
    """
    group = logs.LogGroup(
        scope,
        "Logs",
        log_group_name=None if folder is None else unique_name(scope, folder),
        retention=retention,
        encryption_key=key,
        removal_policy=data_removal_policy(scope, removal_policy),
    )
    if key is None:
        acknowledgments.explain(group, "logs-under-a-key-of-cloudwatch")
    return group


def unique_name(scope: Construct, folder: str) -> str:
    """Return the name of a log group in a folder.

    A log group stays when its stack is deleted. The part of the stack's id keeps its name free for the next deployment.
    """
    stack = Fn.select(0, Fn.split("-", Fn.select(2, Fn.split("/", Aws.STACK_ID))))
    return f"{folder}/{Names.unique_resource_name(scope, max_length=64)}-{stack}"
