"""Instances of EC2 that Lambda starts, patches, scales and stops, and the functions that run on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

from aws_cdk import RemovalPolicy, Stack, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.capacity.network import check_placement, closed_security_group, selected_subnets, shared_network
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between
from cdk_inference.errors import PropError
from cdk_inference.storage import encryption
from cdk_inference.storage.defaults import unique_name
from cdk_inference.storage.removal import data_removal_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import aws_kms as kms

REGIONS = ("ap-northeast-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2")
"""Where AWS started Lambda Managed Instances, in November 2025; more followed, which `regions` can name."""

ALIAS = "live"
"""Name of the alias that is invoked."""

LEAST_MEMORY = 2_048
MOST_MEMORY = 32_768
_GIB_PER_VCPU = (2, 4, 8)
_MOST_CONCURRENCY = 1_600
_MOST_ENVIRONMENTS = 15_000
_OLD_RUNTIMES = ("python3.11", "python3.12")

# EC2 needs these to start an instance whose disks are under a customer managed key.
_DISKS = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


class ManagedInstancesOptions(TypedDict, total=False):
    """Props of `ManagedInstances` but the architecture."""

    vpc: ec2.IVpc | None
    subnets: Sequence[ec2.ISubnet]
    vpc_subnets: ec2.SubnetSelection | None
    security_groups: Sequence[ec2.ISecurityGroup] | None
    allowed_instance_types: Sequence[str]
    excluded_instance_types: Sequence[str]
    max_vcpus: int | None
    encryption_key: kms.IKey | None
    disk_encryption_key: kms.IKey | None
    log_retention: logs.RetentionDays
    log_removal_policy: RemovalPolicy | None
    regions: Sequence[str]


@check_props
class ManagedInstances(Construct):
    """A capacity provider, with all that it needs to start instances.

    The provider itself costs nothing, but its instances do. There is at least one as long as a function on it has a
    minimum of environments above 0. Functions of one provider share instances, without the isolation that Lambda has
    between functions otherwise: they must trust each other.

    Parameters
    ----------
    vpc
        Where the instances are; they must reach S3, DynamoDB, CloudWatch Logs and X-Ray from there, through endpoints
        or NAT. Default: a new `InferenceNetwork`, which costs about 29 USD a month; all instances of a pipeline share
        one.
    subnets
        Subnets of the VPC. Default: those that `vpc_subnets` selects.
    vpc_subnets
        Subnets of the VPC. Default: its private subnets, or its isolated ones if it has no others.
    security_groups
        Default: a new group, which lets nothing in and HTTPS out.
    architecture
        The architecture of the instances, and of every function on them.
    allowed_instance_types, excluded_instance_types
        Which types of EC2 may be used, such as ``"g6.xlarge"``; one of both at most. Default: Lambda chooses.
    max_vcpus
        Most vCPUs of all instances, 12 to 15,000: a limit of the cost. Lambda chooses instances that can be much larger
        than a function. A provider that is too small for the first was seen not to recover. Default: AWS's 400.
    encryption_key
        Customer managed key of the log group. Default: CloudWatch Logs encrypts with its own.
    disk_encryption_key
        Customer managed key of the instances' disks. Default: a key that AWS manages.
    log_retention
        The retention of the provider's log group, which says why instances start or not. Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.
    regions
        Where it may be deployed; checked if the stack names its region.

    Attributes
    ----------
    capacity_provider
        The capacity provider, for everything this construct does not cover.
    capacity_provider_arn
        Its ARN, by which other stacks can share it.
    security_group
        That of the instances, the first one if they were given some.
    role, log_group
        The role by which Lambda manages the instances, and the log group.
    vpc
        Where they are.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        vpc: ec2.IVpc | None = None,
        subnets: Sequence[ec2.ISubnet] = (),
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        architecture: lambda_.Architecture,
        allowed_instance_types: Sequence[str] = (),
        excluded_instance_types: Sequence[str] = (),
        max_vcpus: int | None = None,
        encryption_key: kms.IKey | None = None,
        disk_encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
        regions: Sequence[str] = REGIONS,
    ) -> None:
        super().__init__(scope, id)
        check_region(self, regions)
        if allowed_instance_types and excluded_instance_types:
            raise PropError(
                "allowed_instance_types must not be set with excluded_instance_types, got both; keep one of them"
            )
        check_placement(vpc, vpc_subnets, security_groups)
        if subnets and vpc_subnets is not None:
            raise PropError("subnets must not be set with vpc_subnets, got both; keep one of them")
        if vpc is None:
            vpc = shared_network(
                self, encryption_key=encryption_key, log_retention=log_retention, log_removal_policy=log_removal_policy
            ).vpc
        self.vpc = vpc
        if security_groups is None:
            security_groups = [closed_security_group(self, vpc, "instances that Lambda manages: nothing comes in")]
        groups = list(security_groups)
        self.security_group = groups[0]
        self.role = iam.Role(
            self,
            "OperatorRole",
            # Without a condition, as AWS documents it: with one that Lambda does not meet, no instance ever starts.
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("AWSLambdaManagedEC2ResourceOperator")],
            description="lets Lambda manage the instances of a capacity provider",
        )
        acknowledgments.explain(self.role, "managed-instances-operator")
        encryption.grant(disk_encryption_key, self.role, _DISKS)
        acknowledgments.policy_of(self.role)
        self.log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=unique_name(self, "/aws/lambda/capacity-provider"),
            retention=log_retention,
            encryption_key=encryption_key,
            removal_policy=data_removal_policy(self, log_removal_policy),
        )
        if encryption_key is None:
            acknowledgments.explain(self.log_group, "logs-under-a-key-of-cloudwatch")
        self.capacity_provider = lambda_.CapacityProvider(
            self,
            "CapacityProvider",
            subnets=list(subnets or selected_subnets(vpc, vpc_subnets).subnets),
            security_groups=groups,
            architectures=[architecture],
            instance_type_filter=_filter(allowed_instance_types, excluded_instance_types),
            max_v_cpu_count=max_vcpus,
            operator_role=self.role.without_policy_updates(),
            kms_key=disk_encryption_key,
            log_group=self.log_group,
        )
        # Deleted before what its instances talk to and what it is operated by, and so are the functions before it.
        self.capacity_provider.node.add_dependency(self.vpc, self.role)
        self.capacity_provider_arn = self.capacity_provider.capacity_provider_arn


@check_props
class CpuCapacity(ManagedInstances):
    """Instances without a GPU, always on: cheaper than environments on demand if they have enough to do.

    Parameters
    ----------
    architecture
        The architecture of the instances, and of every function on them. Default: arm64.
    **options
        As those of `ManagedInstances`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        architecture: lambda_.Architecture | None = None,
        **options: Unpack[ManagedInstancesOptions],
    ) -> None:
        chosen = architecture if architecture is not None else lambda_.Architecture.ARM_64
        super().__init__(scope, id, architecture=chosen, **options)

    def add_function(
        self,
        function: lambda_.Function,
        *,
        min_environments: int = 3,
        max_environments: int = 10,
        concurrency: int = 1,
        memory_gib_per_vcpu: int = 2,
    ) -> lambda_.Alias:
        """Run a function on these instances, and return the alias to invoke; see `place`."""
        return place(
            function,
            self.capacity_provider_arn,
            min_environments=min_environments,
            max_environments=max_environments,
            concurrency=concurrency,
            memory_gib_per_vcpu=memory_gib_per_vcpu,
        )


def place(
    function: lambda_.Function,
    capacity_provider_arn: str,
    *,
    min_environments: int,
    max_environments: int,
    concurrency: int,
    memory_gib_per_vcpu: int,
) -> lambda_.Alias:
    """Run a function on a capacity provider, and return the alias to invoke.

    Only published versions run there, and each keeps separate environments: the alias moves to a new version, and the
    old one is deleted. A function cannot leave managed instances again.

    Parameters
    ----------
    function
        With at least 2,048 MiB of memory, and the architecture of the instances.
    capacity_provider_arn
        The capacity provider.
    min_environments, max_environments
        How many environments there are, idle or not, and how many there may be.
    concurrency
        Requests at a time in one environment, each in a separate process.
    memory_gib_per_vcpu
        GiB of memory for each vCPU: 2, 4 or 8.

    Raises
    ------
    PropError
        A value is out of range.
    """
    if not Token.is_unresolved(memory_gib_per_vcpu) and memory_gib_per_vcpu not in _GIB_PER_VCPU:
        raise PropError(f"memory_gib_per_vcpu must be 2, 4 or 8, as instances have, got {memory_gib_per_vcpu}")
    check_between(1, _MOST_CONCURRENCY, "requests at a time", concurrency=concurrency)
    # A token may stand for any number.
    least = 0 if Token.is_unresolved(min_environments) else min_environments
    most = _MOST_ENVIRONMENTS if Token.is_unresolved(max_environments) else max_environments
    if not 0 <= least <= most <= _MOST_ENVIRONMENTS or most < 1:
        raise PropError(
            f"max_environments must be 1 to {_MOST_ENVIRONMENTS}, and min_environments 0 to max_environments, got "
            f"max_environments={max_environments} and min_environments={min_environments}"
        )
    if function.runtime.name in _OLD_RUNTIMES:
        raise PropError(
            f"runtime of {function.node.path} must be Python 3.13 or newer on managed instances, got "
            f"{function.runtime.name}"
        )
    resource = function.node.default_child
    assert isinstance(resource, lambda_.CfnFunction)  # noqa: S101 - for mypy
    resource.capacity_provider_config = lambda_.CfnFunction.CapacityProviderConfigProperty(
        lambda_managed_instances_capacity_provider_config=lambda_.CfnFunction.LambdaManagedInstancesCapacityProviderConfigProperty(
            capacity_provider_arn=capacity_provider_arn,
            per_execution_environment_max_concurrency=concurrency,
            execution_environment_memory_gib_per_v_cpu=memory_gib_per_vcpu,
        )
    )
    # Otherwise $LATEST would be published too, and have three environments.
    resource.publish_to_latest_published = False
    version = function.current_version
    published = version.node.default_child
    assert isinstance(published, lambda_.CfnVersion)  # noqa: S101 - for mypy
    # Set this on the version; the function's setting applies only to $LATEST. Set both bounds, or AWS uses its
    # defaults.
    published.function_scaling_config = lambda_.CfnVersion.FunctionScalingConfigProperty(
        min_execution_environments=min_environments, max_execution_environments=max_environments
    )
    # An old version would keep its environments, and count among the hundred that a provider takes.
    version.apply_removal_policy(RemovalPolicy.DESTROY)
    return lambda_.Alias(function, "Live", alias_name=ALIAS, version=version)


def check_region(scope: Construct, regions: Sequence[str]) -> None:
    """Refuse a region without managed instances, if the stack names one."""
    region = Stack.of(scope).region
    if not Token.is_unresolved(region) and region not in regions:
        raise PropError(
            f"region of the stack must be one with managed instances ({', '.join(regions)}), got {region}; if AWS has "
            f"brought them to {region}, pass regions=['{region}']"
        )


def _filter(allowed: Sequence[str], excluded: Sequence[str]) -> lambda_.InstanceTypeFilter | None:
    if allowed:
        return lambda_.InstanceTypeFilter.allow([ec2.InstanceType(name) for name in allowed])
    if excluded:
        return lambda_.InstanceTypeFilter.exclude([ec2.InstanceType(name) for name in excluded])
    return None
