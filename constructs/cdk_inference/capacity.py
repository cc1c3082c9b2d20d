"""What the environments of a function stand on: Lambda's own, made on demand, or capacity that is always there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aws_cdk import Token
from aws_cdk import aws_lambda as lambda_

from cdk_inference.errors import PropError
from cdk_inference.managed_capacity import ALIAS, LEAST_MEMORY, MOST_MEMORY, CpuCapacity
from cdk_inference.platform import on_cpu_only

if TYPE_CHECKING:
    from aws_cdk import aws_ec2 as ec2
    from constructs import Construct


class Capacity(ABC):
    """Where a function's environments come from; made by one of the class methods.

    The default of every function is Lambda's own: an environment is made when a request finds none, and costs only
    while it works.
    """

    least_memory: ClassVar[int] = 128
    most_memory: ClassVar[int] = 10_240

    @classmethod
    def provisioned(cls, environments: int) -> Capacity:
        """Keep this many environments ready, and pay for them always: no cold start up to this concurrency.

        Raises
        ------
        PropError
            The number is not at least 1.
        """
        return Provisioned(environments)

    @classmethod
    def managed_instances(
        cls,
        *,
        capacity: CpuCapacity | None = None,
        vpc: ec2.IVpc | None = None,
        min_environments: int = 3,
        max_environments: int = 10,
        concurrency: int = 1,
        memory_gib_per_vcpu: int = 2,
    ) -> Capacity:
        """Run on instances of EC2 that Lambda manages, and pay for them always: the cheapest if they are busy.

        Parameters
        ----------
        capacity
            Instances to share with other functions. Default: some of our own.
        vpc
            Where our own are, see `CpuCapacity`.
        min_environments, max_environments
            How many environments there are, idle or not, and how many there may be.
        concurrency
            Requests at a time in one environment, each in a process with the model in its memory.
        memory_gib_per_vcpu
            GiB of memory for each vCPU: 2, 4 or 8.
        """
        if capacity is not None and vpc is not None:
            raise PropError("capacity and vpc are both set; the capacity has a VPC already")
        return OnManagedInstances(
            capacity=capacity,
            vpc=vpc,
            min_environments=min_environments,
            max_environments=max_environments,
            concurrency=concurrency,
            memory_gib_per_vcpu=memory_gib_per_vcpu,
        )

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return "Lambda"

    def check(self, *, reserved: int | None) -> None:  # noqa: B027 - most have nothing against it
        """Refuse a function's reserved concurrency that does not go with the capacity."""

    @abstractmethod
    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Put the function onto the capacity, and return what workflows invoke: a version, or an alias of it."""


@dataclass(frozen=True)
class OnDemand(Capacity):
    """Environments that Lambda makes when they are needed."""

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:  # noqa: ARG002
        """Return the version: while a deployment replaces one function after the other, it stays with the old ones."""
        return function.current_version


@dataclass(frozen=True)
class OnDemandBehindAlias(Capacity):
    """Environments that Lambda makes when they are needed, for who keeps the function's name longer than a version is.

    An execution that waits for a GPU has the definition that it began with: after a deployment the version in there is
    deleted, and the workflow's role may not invoke it any more.
    """

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return an alias of the version."""
        return lambda_.Alias(scope, "Alias", alias_name=ALIAS, version=function.current_version)


@dataclass(frozen=True)
class Provisioned(Capacity):
    """Environments that Lambda keeps ready, see `Capacity.provisioned`."""

    environments: int

    def __post_init__(self) -> None:
        if not Token.is_unresolved(self.environments) and self.environments < 1:
            raise PropError(f"environments is {self.environments}; provisioned concurrency is at least 1")

    def check(self, *, reserved: int | None) -> None:
        """Refuse to reserve less than is provisioned, as Lambda does."""
        if reserved is None or Token.is_unresolved(reserved) or Token.is_unresolved(self.environments):
            return
        if reserved < self.environments:
            raise PropError(
                f"reserved_concurrent_executions is {reserved}, and {self.environments} environments are provisioned; "
                f"reserve at least {self.environments}, or provision fewer"
            )

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return an alias: Lambda moves it when the new version's environments are ready, and the old ones serve on."""
        return lambda_.Alias(
            scope,
            "Alias",
            alias_name=ALIAS,
            version=function.current_version,
            provisioned_concurrent_executions=self.environments,
        )


@dataclass(frozen=True, kw_only=True)
class OnManagedInstances(Capacity):
    """Instances of EC2, see `Capacity.managed_instances`."""

    least_memory: ClassVar[int] = LEAST_MEMORY
    most_memory: ClassVar[int] = MOST_MEMORY

    capacity: CpuCapacity | None
    vpc: ec2.IVpc | None
    min_environments: int
    max_environments: int
    concurrency: int
    memory_gib_per_vcpu: int

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return "a managed instance"

    def check(self, *, reserved: int | None) -> None:
        """Refuse reserved concurrency: Lambda has none on its instances."""
        if reserved is not None:
            raise PropError(
                "reserved_concurrent_executions is set, which functions on managed instances do not have; "
                "leave it out: max_environments times concurrency is what bounds them"
            )

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias; the local target has no instances, and makes environments on demand."""
        if on_cpu_only(scope):
            return function.current_version
        capacity = self.capacity
        if capacity is None:
            capacity = CpuCapacity(scope, "Capacity", vpc=self.vpc, architecture=function.architecture)
        return capacity.add_function(
            function,
            min_environments=self.min_environments,
            max_environments=self.max_environments,
            concurrency=self.concurrency,
            memory_gib_per_vcpu=self.memory_gib_per_vcpu,
        )


ON_DEMAND = OnDemand()
BEHIND_ALIAS = OnDemandBehindAlias()
