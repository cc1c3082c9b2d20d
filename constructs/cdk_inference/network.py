"""The least network that instances of ours need: no way in, and a way out to a few services of AWS only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from cdk_inference import acknowledgments
from cdk_inference.descriptions import SECURITY_GROUP, described
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CIDR = "10.0.0.0/22"
_SUBNET_MASK = 24
_ZONES = 2


class InferenceNetwork(Construct):
    """A VPC of two isolated subnets, without an internet gateway and without NAT.

    What runs in it reaches S3, through a gateway endpoint, which is free; CloudWatch Logs and X-Ray, through an
    interface endpoint each, because what Lambda's managed instances have to say leaves through the VPC. The latter two
    cost about 29 USD a month in us-east-1 (2 endpoints in 2 zones, 730 hours at 0.01 USD each), and 0.01 USD for each
    GB, whether anything runs or not: share a network between pipelines, or pass a VPC that has them.

    Parameters
    ----------
    availability_zones
        Names of two or more zones; Lambda's managed instances are not in every one. Default: the first two of the
        stack's region.

    Attributes
    ----------
    vpc
        The VPC, for everything this construct does not cover, such as more endpoints.
    """

    def __init__(self, scope: Construct, id: str, *, availability_zones: Sequence[str] | None = None) -> None:
        super().__init__(scope, id)
        if availability_zones is not None and len(availability_zones) < _ZONES:
            raise PropError(
                f"availability_zones names {len(availability_zones)}; name {_ZONES}: what one lacks another may have"
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
            # CDK would do it with a function of its own, whose policy names every security group.
            restrict_default_security_group=False,
            gateway_endpoints={"S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)},
        )
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
        acknowledgments.no_flow_logs(self.vpc)
