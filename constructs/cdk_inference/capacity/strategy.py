"""The interface of every kind of capacity, and Lambda's own kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from aws_cdk import Token
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs

from cdk_inference.capacity.managed_instances import ALIAS
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_kms as kms
    from constructs import Construct


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Props of a function that hold for resources of its capacity too, such as instances and their log group.

    Parameters
    ----------
    encryption_key, log_retention, log_removal_policy, vpc, vpc_subnets, security_groups
        As those of `StageFunction`.
    """

    encryption_key: kms.IKey | None = None
    log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH
    log_removal_policy: RemovalPolicy | None = None
    vpc: ec2.IVpc | None = None
    vpc_subnets: ec2.SubnetSelection | None = None
    security_groups: Sequence[ec2.ISecurityGroup] | None = None


@check_props
class CapacityStrategy(ABC):
    """Where the environments of a function come from. `Capacity` has a factory for each kind."""

    min_memory_size: ClassVar[int] = 128
    max_memory_size: ClassVar[int] = 10_240
    billed_by_duration: ClassVar[bool] = True
    """Whether Lambda bills a function's duration at the price on demand."""
    has_network: ClassVar[bool] = False
    """Whether functions share the network of the capacity instead of having separate ones."""

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return "Lambda"

    def within(self, surroundings: Surroundings) -> CapacityStrategy:  # noqa: ARG002
        """Return the same, with a function's props for the resources that it makes."""
        return self

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: B027
        """Refuse a function's props that do not go with the capacity; most have nothing against any.

        Parameters
        ----------
        reserved
            Its reserved concurrency, if any.
        ephemeral_mib
            MiB of its ``/tmp``.
        """

    def check_memory(self, prop: str, memory_size: float, function: str) -> None:
        """Refuse a memory size that the capacity does not have.

        Parameters
        ----------
        prop, memory_size
            The prop that says how much, and its MiB.
        function
            The name of the function in messages.
        """
        if not Token.is_unresolved(memory_size) and not self.min_memory_size <= memory_size <= self.max_memory_size:
            raise PropError(
                f"{prop} must be {self.min_memory_size} to {self.max_memory_size} MiB on {self}, where {function} "
                f"runs, got {memory_size} MiB"
            )

    @abstractmethod
    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Put the function onto the capacity, and return the alias that workflows invoke."""


@dataclass(frozen=True)
class OnDemand(CapacityStrategy):
    """Environments that Lambda makes when they are needed."""

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias."""
        return live_alias(scope, function)


def live_alias(scope: Construct, function: lambda_.Function, **options: Any) -> lambda_.Alias:
    """Return the alias of the function's current version.

    Workflows and policies name the alias. A deployment moves it and deletes the old version, so that neither a
    definition nor a permission changes with the code. An execution that began before finds the new version.

    Parameters
    ----------
    **options
        Options of `aws_lambda.Alias`.
    """
    return lambda_.Alias(scope, "Alias", alias_name=ALIAS, version=function.current_version, **options)


def reserve_at_least(environments: int | None, reserved: int | None, what: str, instead: str) -> None:
    """Refuse to reserve less concurrency than these environments have, if both numbers are known."""
    if environments is None or reserved is None or Token.is_unresolved(reserved):
        return
    if reserved < environments:
        raise PropError(
            f"reserved_concurrent_executions must be at least {environments}, as many environments as are {what}, got "
            f"{reserved}; reserve more, or {instead}"
        )


ON_DEMAND = OnDemand()
