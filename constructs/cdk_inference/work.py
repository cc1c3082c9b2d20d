"""The work bucket: tensors on their way from one stage to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_inference import acknowledgments, encryption
from cdk_inference.metadata import mark
from cdk_inference.removal import data_removal_policy

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms

TENSORS = "tensors/*"
"""The keys of the tensors."""


class WorkBucket(Construct):
    """A bucket for what does not fit into the state of a workflow (262,144 bytes); objects expire after a day.

    Parameters
    ----------
    encryption_key
        Customer managed key. Default: S3 encrypts with a key that it manages.
    removal_policy
        Default: RETAIN, although it only holds copies: CloudFormation cannot delete a bucket that is not empty.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        encryption_key: kms.IKey | None = None,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._key = encryption_key
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.KMS if encryption_key else s3.BucketEncryption.S3_MANAGED,
            encryption_key=encryption_key,
            bucket_key_enabled=True if encryption_key else None,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(expiration=Duration.days(1), abort_incomplete_multipart_upload_after=Duration.days(1))
            ],
            removal_policy=data_removal_policy(self, removal_policy),
        )
        mark(self.bucket, "work")
        acknowledgments.no_access_logs(self.bucket)

    def grant_write(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put tensors."""
        encryption.grant(self._key, grantee, encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:PutObject"], resource_arns=[self.bucket.arn_for_objects(TENSORS)]
        )

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee get tensors."""
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.bucket.arn_for_objects(TENSORS)]
        )
