"""Where the environments of a function come from: made on demand, from a snapshot, kept warm, or always there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from aws_cdk import Token
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs

from cdk_inference.capacity.managed_instances import ALIAS, LEAST_MEMORY, MOST_MEMORY, CpuCapacity
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.capacity.provisioned import CapacitySchedule


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
class Capacity(ABC):
    """Where a function's environments come from; made by one of the class methods.

    The default of every function is Lambda's own: an environment is made when a request finds none, and costs only
    while it works.
    """

    least_memory: ClassVar[int] = 128
    most_memory: ClassVar[int] = 10_240
    has_network: ClassVar[bool] = False
    """Whether functions share the network of the capacity instead of having separate ones."""

    @classmethod
    def snap_start(cls) -> Capacity:
        """Have Lambda begin every environment with a snapshot of an initialized one: SnapStart.

        Costs by the hour for the snapshot of the version in use, and for every environment that begins with it. Lambda
        has it for Python 3.12 and newer, with at most 512 MiB of ephemeral storage and no file system.
        """
        from cdk_inference.capacity.snap_start import SnapStart  # noqa: PLC0415 # it is made of a Capacity

        return SnapStart()

    @classmethod
    def provisioned(
        cls,
        environments: int,
        *,
        schedules: Sequence[CapacitySchedule] = (),
        target_utilization: float | None = None,
        max_environments: int | None = None,
    ) -> Capacity:
        """Keep this many environments ready, and pay for them always: no cold start up to this concurrency.

        Parameters
        ----------
        environments
            How many; with a target utilization: how many at least.
        schedules
            When how many are provisioned, by the clock. Default: always the same.
        target_utilization
            Share of the environments that is to be at work, 0.1 to 0.9: Application Auto Scaling adds and removes some
            to keep to it. Default: their number does not follow the load.
        max_environments
            How many there may be, with a target utilization.

        Raises
        ------
        PropError
            A value is out of range, or contradicts another.
        """
        from cdk_inference.capacity.provisioned import Provisioned  # noqa: PLC0415 # it is made of a Capacity

        return Provisioned(environments, tuple(schedules), target_utilization, max_environments)

    @classmethod
    def warmed(cls, environments: int = 1, *, every: Duration | None = None) -> Capacity:
        """Invoke this many environments at the same time every few minutes, so that Lambda keeps them: a cheap try.

        Lambda promises nothing: it may end an environment at any time, an environment that answers a warming event is
        not there for a request meanwhile, and requests beyond the environments have cold starts as before.

        Parameters
        ----------
        environments
            How many, 1 to 50.
        every
            How often, 1 minute to 1 hour, in whole minutes. Default: 5 minutes.

        Raises
        ------
        PropError
            A value is out of range.
        """
        from cdk_inference.capacity.keep_warm import Warmed  # noqa: PLC0415 # it is made of a Capacity

        return Warmed(environments, every)

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
            Where our own are, see `CpuCapacity`. Default: that of the pipeline or the function, if it has one.
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

    def within(self, surroundings: Surroundings) -> Capacity:  # noqa: ARG002
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
            What the function is called in messages.
        """
        if not Token.is_unresolved(memory_size) and not self.least_memory <= memory_size <= self.most_memory:
            raise PropError(
                f"{prop} is {memory_size} MiB; {self}, where {function} runs, takes {self.least_memory} to "
                f"{self.most_memory}"
            )

    @abstractmethod
    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Put the function onto the capacity, and return the alias that workflows invoke."""


@dataclass(frozen=True)
class OnDemand(Capacity):
    """Environments that Lambda makes when they are needed."""

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return the alias."""
        return live_alias(scope, function)


@dataclass(frozen=True, kw_only=True)
class OnManagedInstances(Capacity):
    """Instances of EC2, see `Capacity.managed_instances`."""

    least_memory: ClassVar[int] = LEAST_MEMORY
    most_memory: ClassVar[int] = MOST_MEMORY
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

    def within(self, surroundings: Surroundings) -> Capacity:
        """Return the same, with a function's props for the resources that it makes."""
        return replace(self, surroundings=surroundings)

    def check(self, *, reserved: int | None, ephemeral_mib: int = 512) -> None:  # noqa: ARG002
        """Refuse reserved concurrency: Lambda has none on its instances."""
        if reserved is not None:
            raise PropError(
                "reserved_concurrent_executions is set, which functions on managed instances do not have; "
                "leave it out: max_environments times concurrency is what bounds them"
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


def live_alias(scope: Construct, function: lambda_.Function, **options: Any) -> lambda_.Alias:
    """Return the alias of the function's current version.

    Workflows and policies name the alias. A deployment moves it and deletes the old version, so that neither a
    definition nor a permission changes with the code. An execution that began before finds the new version.

    Parameters
    ----------
    **options
        Of `aws_lambda.Alias`.
    """
    return lambda_.Alias(scope, "Alias", alias_name=ALIAS, version=function.current_version, **options)


def reserve_at_least(environments: int | None, reserved: int | None, what: str, instead: str) -> None:
    """Refuse to reserve less concurrency than so many environments have, if both are known."""
    if environments is None or reserved is None or Token.is_unresolved(reserved):
        return
    if reserved < environments:
        raise PropError(
            f"reserved_concurrent_executions is {reserved}, and {environments} environments are {what}; reserve at "
            f"least {environments}, or {instead}"
        )


ON_DEMAND = OnDemand()
