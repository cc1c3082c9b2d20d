"""Functions on instances of EC2 that Lambda manages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from cdk_inference.capacity.managed_instances import LEAST_MEMORY, MOST_MEMORY, CpuCapacity
from cdk_inference.capacity.strategy import CapacityStrategy, Surroundings, live_alias
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct


@dataclass(frozen=True, kw_only=True)
class OnManagedInstances(CapacityStrategy):
    """Instances of EC2, see `Capacity.managed_instances`."""

    billed_by_duration: ClassVar[bool] = False
    min_memory_size: ClassVar[int] = LEAST_MEMORY
    max_memory_size: ClassVar[int] = MOST_MEMORY
    has_network: ClassVar[bool] = True

    capacity: CpuCapacity | None
    vpc: ec2.IVpc | None
    min_environments: int
    max_environments: int
    concurrency: int
    memory_gib_per_vcpu: int
    surroundings: Surroundings | None = None

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return "a managed instance"

    def within(self, surroundings: Surroundings) -> CapacityStrategy:
        """Return the same, with a function's props for the resources that it makes."""
        return replace(self, surroundings=surroundings)

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse reserved concurrency: Lambda has none on its instances."""
        if reserved is not None:
            raise PropError(
                f"reserved_concurrent_executions must be left out on managed instances, got {reserved}; "
                "max_environments times concurrency is the bound there"
            )

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias; the local target has no instances, and makes environments on demand."""
        if on_cpu_only(scope):
            return live_alias(scope, function)
        capacity = self.capacity
        if capacity is None:
            own = self.surroundings or Surroundings()
            capacity = CpuCapacity(
                scope,
                "Capacity",
                architecture=function.architecture,
                vpc=self.vpc if self.vpc is not None else own.vpc,
                vpc_subnets=own.vpc_subnets if self.vpc is None else None,
                security_groups=own.security_groups if self.vpc is None else None,
                encryption_key=own.encryption_key,
                log_retention=own.log_retention,
                log_removal_policy=own.log_removal_policy,
            )
        return capacity.add_function(
            function,
            min_environments=self.min_environments,
            max_environments=self.max_environments,
            concurrency=self.concurrency,
            memory_gib_per_vcpu=self.memory_gib_per_vcpu,
        )
