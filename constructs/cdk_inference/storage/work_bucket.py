"""The work bucket: tensors on their way from one stage to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_either
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import private_bucket

if TYPE_CHECKING:
    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms

TENSORS = "tensors/*"
"""The keys of the tensors."""

_MASKS_FOLDER = "masks"

MASKS = f"{_MASKS_FOLDER}/*"
"""The keys of the masks that segmentation makes."""


@check_props
class IWorkBucket(Construct):
    """A bucket for tensors on their way and for masks: a `WorkBucket`, or one of another stack.

    Attributes
    ----------
    bucket
        The bucket, for everything this construct does not cover.
    """

    bucket: s3.IBucket
    _key: kms.IKey | None

    def grant_write(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put tensors."""
        return self._grant(grantee, "s3:PutObject", TENSORS)

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee get tensors."""
        return self._grant(grantee, "s3:GetObject", TENSORS)

    def grant_write_masks(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put masks."""
        return self._grant(grantee, "s3:PutObject", MASKS)

    def grant_read_masks(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee get the masks that rows point to."""
        return self._grant(grantee, "s3:GetObject", MASKS)

    @property
    def masks_address(self) -> str:
        """Where masks are, ``s3://…``."""
        return f"s3://{self.bucket.bucket_name}/{_MASKS_FOLDER}"

    def _grant(self, grantee: iam.IGrantable, action: str, keys: str) -> iam.Grant:
        encryption.grant(self._key, grantee, encryption.DECRYPT if action == "s3:GetObject" else encryption.ENCRYPT)
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=[action], resource_arns=[self.bucket.arn_for_objects(keys)]
        )


@check_props
class WorkBucket(IWorkBucket):
    """A bucket for what does not fit into the state of a workflow (262,144 bytes); objects expire after a day.

    Parameters
    ----------
    encryption_key
        Customer managed key. Default: S3 encrypts with a key that it manages.
    removal_policy
        Default: RETAIN, since CloudFormation cannot delete a bucket that is not empty.
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

    @classmethod
    def from_bucket_name(cls, scope: Construct, id: str, bucket_name: str) -> IWorkBucket:
        """Use a bucket of another stack by its name."""
        return cls.from_bucket_attributes(scope, id, bucket_name=bucket_name)

    @classmethod
    def from_bucket_arn(cls, scope: Construct, id: str, bucket_arn: str) -> IWorkBucket:
        """Use a bucket of another stack by its ARN."""
        return cls.from_bucket_attributes(scope, id, bucket_arn=bucket_arn)

    @classmethod
    def from_bucket_attributes(
        cls,
        scope: Construct,
        id: str,
        *,
        bucket_arn: str | None = None,
        bucket_name: str | None = None,
        encryption_key: kms.IKey | None = None,
    ) -> IWorkBucket:
        """Use a bucket of another stack, with its key.

        Its owner deletes old objects: add a lifecycle rule that expires them after a day.

        Parameters
        ----------
        bucket_arn, bucket_name
            One of the two.
        encryption_key
            Customer managed key of the bucket; grants include it. Default: none.

        Raises
        ------
        PropError
            Both or none of ARN and name are given.
        """
        check_either(bucket_arn=bucket_arn, bucket_name=bucket_name)
        return _ImportedBucket(scope, id, bucket_arn=bucket_arn, bucket_name=bucket_name, encryption_key=encryption_key)


class _ImportedBucket(IWorkBucket):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        bucket_arn: str | None,
        bucket_name: str | None,
        encryption_key: kms.IKey | None,
    ) -> None:
        super().__init__(scope, id)
        self._key = encryption_key
        self.bucket = s3.Bucket.from_bucket_attributes(
            self, "Bucket", bucket_arn=bucket_arn, bucket_name=bucket_name, encryption_key=encryption_key
        )
