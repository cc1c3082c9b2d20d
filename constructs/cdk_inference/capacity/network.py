"""The least network that instances of ours need: no way in, and a way out to a few services of AWS only."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.common import acknowledgments
from cdk_inference.common.props.descriptions import SECURITY_GROUP, described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.storage.defaults import log_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_kms as kms

_CIDR = "10.0.0.0/22"
_SUBNET_MASK = 24
_ZONES = 2
_INTERFACES = (
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
)


@check_props
class InferenceNetwork(Construct):
    """A VPC of two isolated subnets, without an internet gateway and without NAT.

    Functions in it reach S3 and DynamoDB through gateway endpoints, which are free. It reaches CloudWatch Logs and
    X-Ray through an interface endpoint each, because Lambda's managed instances send logs through the VPC. These two
    cost about 29 USD a month in us-east-1: 2 endpoints in 2 zones, 730 hours at 0.01 USD each. Each GB costs another
    0.01 USD. You pay for the hours whether anything runs or not, so share a network between pipelines, or pass a VPC
    that has these endpoints.
    Flow logs record every connection, for 0.50 USD for each GB of records.

    Its default security group is not closed, since CloudFormation cannot do that. Nothing is in that group, and it lets
    in only what is in it.

    Parameters
    ----------
    availability_zones
        Names of two or more zones; Lambda's managed instances are not in every one. Default: the first two of the
        stack's region.
    restrict_default_security_group
        Whether CDK closes the default security group, with a function in your account. Default: no.
    encryption_key
        Customer managed key of the flow logs. Default: CloudWatch Logs encrypts with its own.
    log_retention
        The retention of the flow logs. Default: one month.
    log_removal_policy
        Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    vpc
        The VPC, for everything this construct does not cover, such as more endpoints.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        availability_zones: Sequence[str] | None = None,
        restrict_default_security_group: bool = False,
        encryption_key: kms.IKey | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        log_removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        if availability_zones is not None and len(availability_zones) < _ZONES:
            raise PropError(
                f"availability_zones must name at least {_ZONES}, got {len(availability_zones)}; add one, for "
                "instances that the others lack"
            )
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(_CIDR),
            **({"max_azs": _ZONES} if availability_zones is None else {"availability_zones": list(availability_zones)}),
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="Isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=_SUBNET_MASK
                )
            ],
            restrict_default_security_group=restrict_default_security_group,
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
        )
        acknowledgments.explain(self.vpc, "default-security-group")
        endpoints = ec2.SecurityGroup(
            self,
            "Endpoints",
            vpc=self.vpc,
            description=described(f"lets {self.node.path} reach AWS services", SECURITY_GROUP),
            allow_all_outbound=False,
        )
        endpoints.add_ingress_rule(ec2.Peer.ipv4(_CIDR), ec2.Port.tcp(443), "HTTPS from this VPC")
        for name, service in (
            ("Logs", ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS),
            ("XRay", ec2.InterfaceVpcEndpointAwsService.XRAY),
        ):
            self.vpc.add_interface_endpoint(name, service=service, security_groups=[endpoints], open=False)
        self._log_flows(log_group(self, key=encryption_key, retention=log_retention, removal_policy=log_removal_policy))

    def _log_flows(self, group: logs.LogGroup) -> None:
        """Record connections. The L2's role could list all log groups, and pass itself to other services."""
        stack = Stack.of(self)
        source = stack.format_arn(service="ec2", resource="vpc-flow-log", resource_name="*")
        role = iam.Role(
            self,
            "FlowLogsRole",
            assumed_by=iam.ServicePrincipal(
                "vpc-flow-logs.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": stack.account}, "ArnLike": {"aws:SourceArn": source}},
            ),
            description="writes the flow logs of a network",
        )
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                resources=[group.log_group_arn],
            )
        )
        flow_logs = ec2.CfnFlowLog(
            self,
            "FlowLogs",
            resource_id=self.vpc.vpc_id,
            resource_type="VPC",
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.log_group_arn,
            deliver_logs_permission_arn=role.role_arn,
        )
        flow_logs.node.add_dependency(role)
        acknowledgments.policy_of(role)


def shared_network(
    scope: Construct,
    *,
    encryption_key: kms.IKey | None,
    log_retention: logs.RetentionDays,
    log_removal_policy: RemovalPolicy | None,
) -> InferenceNetwork:
    """Return the network of the pipeline that a construct is in, or a new one: endpoints are paid for by the hour."""
    owner = next((one for one in reversed(scope.node.scopes) if getattr(one, "is_pipeline", False)), scope)
    found = owner.node.try_find_child("Network")
    if isinstance(found, InferenceNetwork):
        return found
    return InferenceNetwork(
        cast("Construct", owner),
        "Network",
        encryption_key=encryption_key,
        log_retention=log_retention,
        log_removal_policy=log_removal_policy,
    )


def closed_security_group(
    scope: Construct, vpc: ec2.IVpc, description: str = "nothing comes in, and only HTTPS goes out"
) -> ec2.SecurityGroup:
    """Create a group that lets nothing in, and HTTPS out; its id is ``SecurityGroup``."""
    group = ec2.SecurityGroup(scope, "SecurityGroup", vpc=vpc, description=description, allow_all_outbound=False)
    group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "HTTPS to services of AWS")
    return group


def selected_subnets(vpc: ec2.IVpc, selection: ec2.SubnetSelection | None) -> ec2.SelectedSubnets:
    """Return the subnets that a selection means, by default the private ones, otherwise the isolated ones."""
    if selection is None:
        kind = ec2.SubnetType.PRIVATE_WITH_EGRESS if vpc.private_subnets else ec2.SubnetType.PRIVATE_ISOLATED
        return vpc.select_subnets(subnet_type=kind)
    return vpc.select_subnets(
        availability_zones=selection.availability_zones,
        one_per_az=selection.one_per_az,
        subnet_filters=selection.subnet_filters,
        subnet_group_name=selection.subnet_group_name,
        subnets=selection.subnets,
        subnet_type=selection.subnet_type,
    )


def allow_interfaces(role: iam.Role) -> None:
    """Let Lambda connect a function to a VPC, and not the function itself.

    Most of these actions take no resource. Requests of the function's own code carry its ARN, and are not allowed:
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html.
    """
    role.add_to_policy(
        iam.PolicyStatement(
            actions=list(_INTERFACES),
            resources=["*"],
            conditions={"Null": {"lambda:SourceFunctionArn": "true"}},
        )
    )


def check_placement(
    vpc: ec2.IVpc | None,
    vpc_subnets: ec2.SubnetSelection | None,
    security_groups: Sequence[ec2.ISecurityGroup] | None,
) -> None:
    """Refuse subnets and security groups without a VPC.

    Raises
    ------
    PropError
        There is no VPC.
    """
    if vpc is None:
        for name, value in (("vpc_subnets", vpc_subnets), ("security_groups", security_groups)):
            if value is not None:
                raise PropError(f"vpc must be set where {name} is, got None; pass the VPC, or remove {name}")
