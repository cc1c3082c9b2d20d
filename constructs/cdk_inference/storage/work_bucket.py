"""The work bucket: tensors on their way from one stage to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.prop_types import check_props
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms

TENSORS = "tensors/*"
"""The keys of the tensors."""


@check_props
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
        encryption.check_key(self, encryption_key)
        self._key = encryption_key
        self.bucket = private_bucket(
            self,
            "Bucket",
            key=encryption_key,
            removal_policy=removal_policy,
            lifecycle_rules=[
                s3.LifecycleRule(expiration=Duration.days(1), abort_incomplete_multipart_upload_after=Duration.days(1))
            ],
        )
        add_metadata(self.bucket, "work")

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
