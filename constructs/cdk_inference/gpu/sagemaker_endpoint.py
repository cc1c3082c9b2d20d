"""A SageMaker endpoint for asynchronous inference, with what it needs: a role, topics, a log group, scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jsii
from aws_cdk import Fn, Names, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_sns as sns
from constructs import Construct

from cdk_inference.capacity.network import check_placement, closed_security_group, selected_subnets
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.descriptions import ROLE, described
from cdk_inference.gpu.sagemaker_scaling import ScaleToZero
from cdk_inference.stages.inference import inference_environment
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.work_bucket import TENSORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_ecr_assets as ecr_assets

    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.storage.work_bucket import IWorkBucket

REQUESTS = "sagemaker/requests"
ANSWERS = "sagemaker/answers"
FAILURES = "sagemaker/failures"
"""Folders of the work bucket."""

VARIANT = "gpu"

# Its driver (580, CUDA 13) runs images for CUDA 12 and 13. SageMaker's choice for older GPUs stops at CUDA 11:
# https://docs.aws.amazon.com/sagemaker/latest/dg/inference-gpu-drivers.html
_AMI = "al2023-ami-sagemaker-inference-gpu-4-1"
# SageMaker needs these actions for the role of a model in a VPC:
# https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms
_INTERFACES = (
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeVpcs",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeSubnets",
    "ec2:DescribeSecurityGroups",
)
_METRICS = "/aws/sagemaker/Endpoints"
_MAX_NAME = 50  # of 63; the rest is for what makes it unique


@jsii.implements(iam.IGrantable)
class AsyncEndpoint(Construct):
    """An endpoint that reads requests from the work bucket, writes answers to it, and announces them to topics.

    Parameters
    ----------
    model
        The model that it runs.
    work
        Where requests, answers and large tensors are.
    image
        The container.
    instance_type, max_instances, concurrency
        As those of `SageMakerAsync`.
    timeout
        The time limit of one run of a batch: a container in which one takes longer ends.
    explanation
        As that of `GpuInference`.
    encryption_key
        Customer managed key of the topics, the answers and the log group. Default: keys that AWS manages.
    log_retention
        Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.
    vpc, vpc_subnets, security_groups
        As those of `StageFunction`. The container cannot be isolated from the network as well: it reads and writes
        large tensors in the work bucket itself.

    Attributes
    ----------
    endpoint
        The endpoint, for everything this construct does not cover.
    arn
        Its ARN.
    role
        The role that it runs with.
    succeeded, failed
        The topics.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        image: ecr_assets.DockerImageAsset,
        instance_type: str,
        max_instances: int,
        concurrency: int,
        timeout: Duration,
        explanation: Explanation | None,
        encryption_key: kms.IKey | None,
        log_retention: logs.RetentionDays | None,
        log_removal_policy: RemovalPolicy | None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
    ) -> None:
        super().__init__(scope, id)
        name = _name(self)
        self.arn = Stack.of(self).format_arn(service="sagemaker", resource="endpoint", resource_name=name)
        self.succeeded = self._topic("Succeeded", encryption_key)
        self.failed = self._topic("Failed", encryption_key)
        # SageMaker names the log group after the endpoint. Made by us, it has a retention and a key.
        self.log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=Fn.join("/", [_METRICS, name]),
            retention=log_retention or logs.RetentionDays.ONE_MONTH,
            encryption_key=encryption_key,
            removal_policy=data_removal_policy(self, log_removal_policy),
        )
        if encryption_key is None:
            acknowledgments.explain(self.log_group, "logs-under-a-key-of-cloudwatch")
        self.role = self._role(work, image, encryption_key)
        check_placement(vpc, vpc_subnets, security_groups)
        served = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=self.role.role_arn,
            vpc_config=None if vpc is None else self._vpc_config(vpc, vpc_subnets, security_groups),
            primary_container=sagemaker.CfnModel.ContainerDefinitionProperty(
                image=image.image_uri,
                environment={
                    "PIPELINE": metrics_name(self),
                    "ACCELERATOR": "cuda",
                    "AWS_DEFAULT_REGION": Stack.of(self).region,
                    "ANSWER_SECONDS": str(int(timeout.to_seconds())),
                    **inference_environment(model, work),
                    **({} if explanation is None else explanation.engine_environment),
                },
            ),
        )
        # SageMaker checks what the role may do when a model and an endpoint are made, and uses it until they are gone.
        served.node.add_dependency(self.role)
        if explanation is not None:
            explanation.record(served)
        config = self._config(served, work, instance_type, concurrency, encryption_key)
        self.endpoint = sagemaker.CfnEndpoint(
            self, "Endpoint", endpoint_name=name, endpoint_config_name=config.attr_endpoint_config_name
        )
        self.endpoint.node.add_dependency(self.role, self.log_group, self.succeeded, self.failed)
        add_metadata(self.endpoint, "endpoint")
        ScaleToZero(self, "Scaling", endpoint=self.endpoint, variant=VARIANT, max_instances=max_instances)

    @property
    @jsii.member(jsii_name="grantPrincipal")
    def grant_principal(self) -> iam.IPrincipal:
        """The role that the model runs with."""
        return self.role

    def _topic(self, id: str, key: kms.IKey | None) -> sns.Topic:
        # The key of SNS itself lets everyone in the account use it who may publish.
        return sns.Topic(
            self, id, master_key=key or kms.Alias.from_alias_name(self, f"{id}Key", "alias/aws/sns"), enforce_ssl=True
        )

    def _role(self, work: IWorkBucket, image: ecr_assets.DockerImageAsset, key: kms.IKey | None) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"),
            description=described(f"runs the endpoint of {self.node.path}", ROLE),
        )
        work.grant_read(role)
        work.grant_write(role)
        image.repository.grant_pull(role)
        encryption.grant(key, role, encryption.ENCRYPT)
        for actions, folders in (
            (["s3:GetObject"], [REQUESTS]),
            (["s3:PutObject", "s3:AbortMultipartUpload"], [ANSWERS, FAILURES]),
        ):
            role.add_to_policy(
                iam.PolicyStatement(
                    actions=actions, resources=[work.bucket.arn_for_objects(f"{folder}/*") for folder in folders]
                )
            )
        role.add_to_policy(
            iam.PolicyStatement(actions=["sns:Publish"], resources=[self.succeeded.topic_arn, self.failed.topic_arn])
        )
        role.add_to_policy(
            iam.PolicyStatement(
                # It is there already; what SageMaker does when it may not try is not documented.
                actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                resources=[self.log_group.log_group_arn],
            )
        )
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["cloudwatch:PutMetricData"],
                resources=["*"],
                conditions={"StringEquals": {"cloudwatch:namespace": _METRICS}},
            )
        )
        patterns = (TENSORS, *(f"{folder}/*" for folder in (REQUESTS, ANSWERS, FAILURES)))
        acknowledgments.objects_under(role, work.bucket, *patterns)
        acknowledgments.policy_of(role, "sagemaker-role")
        return role

    def _vpc_config(
        self,
        vpc: ec2.IVpc,
        vpc_subnets: ec2.SubnetSelection | None,
        security_groups: Sequence[ec2.ISecurityGroup] | None,
    ) -> sagemaker.CfnModel.VpcConfigProperty:
        """Put the container into a VPC; SageMaker makes the network interfaces with the role."""
        groups = security_groups if security_groups is not None else [closed_security_group(self, vpc)]
        self.role.add_to_policy(iam.PolicyStatement(actions=list(_INTERFACES), resources=["*"]))
        return sagemaker.CfnModel.VpcConfigProperty(
            subnets=selected_subnets(vpc, vpc_subnets).subnet_ids,
            security_group_ids=[group.security_group_id for group in groups],
        )

    def _config(
        self,
        served: sagemaker.CfnModel,
        work: IWorkBucket,
        instance_type: str,
        concurrency: int,
        key: kms.IKey | None,
    ) -> sagemaker.CfnEndpointConfig:
        bucket = work.bucket.bucket_name
        config = sagemaker.CfnEndpointConfig(
            self,
            "Config",
            # No key for the volumes: instances with a GPU have local disks, which they encrypt, and then
            # SageMaker refuses one.
            production_variants=[
                sagemaker.CfnEndpointConfig.ProductionVariantProperty(
                    variant_name=VARIANT,
                    model_name=served.attr_model_name,
                    instance_type=instance_type,
                    # SageMaker starts no endpoint without an instance: each deployment tries its image on one.
                    initial_instance_count=1,
                    initial_variant_weight=1,
                    inference_ami_version=_AMI,
                )
            ],
            async_inference_config=sagemaker.CfnEndpointConfig.AsyncInferenceConfigProperty(
                client_config=sagemaker.CfnEndpointConfig.AsyncInferenceClientConfigProperty(
                    max_concurrent_invocations_per_instance=concurrency
                ),
                output_config=sagemaker.CfnEndpointConfig.AsyncInferenceOutputConfigProperty(
                    s3_output_path=f"s3://{bucket}/{ANSWERS}/",
                    s3_failure_path=f"s3://{bucket}/{FAILURES}/",
                    kms_key_id=key.key_arn if key is not None else None,
                    notification_config=sagemaker.CfnEndpointConfig.AsyncInferenceNotificationConfigProperty(
                        success_topic=self.succeeded.topic_arn,
                        error_topic=self.failed.topic_arn,
                        # The container's answer to an error decides whether the workflow waits or splits the batch.
                        include_inference_response_in=["ERROR_NOTIFICATION_TOPIC"],
                    ),
                ),
            ),
        )
        acknowledgments.explain(config, "sagemaker-disks")
        return config


def _name(scope: Construct) -> str:
    """Return the endpoint's name, which the log group needs before there is an endpoint.

    It is another one when the stack is deleted and deployed again, since log groups stay. In lower case, as SageMaker
    writes it into ARNs.
    """
    base = Names.unique_resource_name(scope, max_length=_MAX_NAME, separator="-").lower()
    stack_uuid = Fn.select(2, Fn.split("/", Stack.of(scope).stack_id))
    return Fn.join("-", [base, Fn.select(0, Fn.split("-", stack_uuid))])
