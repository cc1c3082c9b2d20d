"""Where the environments of a function come from: one factory for each kind of capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.capacity.keep_warm import KeepWarm
from cdk_inference.capacity.on_managed_instances import OnManagedInstances
from cdk_inference.capacity.provisioned import Provisioned
from cdk_inference.capacity.snap_start import SnapStart
from cdk_inference.common.props.deprecations import renamed_props, warn_deprecated
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import Duration
    from aws_cdk import aws_ec2 as ec2

    from cdk_inference.capacity.managed_instances import CpuCapacity
    from cdk_inference.capacity.provisioned import CapacitySchedule
    from cdk_inference.capacity.strategy import CapacityStrategy


@check_props
class Capacity:
    """Where the environments of a function come from.

    The default of every function is Lambda's own: an environment is made when a request finds none, and costs only
    while it works.
    """

    @classmethod
    def snap_start(cls) -> CapacityStrategy:
        """Have Lambda begin every environment with a snapshot of an initialized one: SnapStart.

        Costs by the hour for the snapshot of the version in use, and for every environment that begins with it. Lambda
        has it for Python 3.12 and newer, with at most 512 MiB of ephemeral storage and no file system.
        """
        return SnapStart()

    @classmethod
    @renamed_props(environments="min_capacity", max_environments="max_capacity")
    def provisioned(
        cls,
        min_capacity: int,
        *,
        schedules: Sequence[CapacitySchedule] = (),
        target_utilization: float | None = None,
        max_capacity: int | None = None,
    ) -> CapacityStrategy:
        """Keep this many environments ready, and pay for them always: no cold start up to this concurrency.

        Parameters
        ----------
        min_capacity
            How many environments; with a target utilization: how many at least.
        schedules
            When how many are provisioned, by the clock. Default: always the same.
        target_utilization
            Share of the environments that is to be at work, 0.1 to 0.9: Application Auto Scaling adds and removes some
            to keep to it. Default: their number does not follow the load.
        max_capacity
            How many there may be, with a target utilization.

        Raises
        ------
        PropError
            A value is out of range, or contradicts another.
        """
        return Provisioned(min_capacity, tuple(schedules), target_utilization, max_capacity)

    @classmethod
    def keep_warm(cls, environments: int = 1, *, every: Duration | None = None) -> CapacityStrategy:
        """Invoke this many environments at the same time every few minutes, so that Lambda keeps them: a cheap try.

        Lambda promises nothing: it may end an environment at any time. While an environment answers a warming event, it
        cannot take a request. Requests beyond the environments have cold starts as before.

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
        return KeepWarm(environments, every)

    @classmethod
    def warmed(cls, environments: int = 1, *, every: Duration | None = None) -> CapacityStrategy:
        """Do what `keep_warm` does, under its old name."""
        warn_deprecated("Capacity.warmed", "Capacity.keep_warm")
        return cls.keep_warm(environments, every=every)

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
    ) -> CapacityStrategy:
        """Run on instances of EC2 that Lambda manages, and pay for them always: the cheapest if they are busy.

        Parameters
        ----------
        capacity
            Instances to share with other functions. Default: new ones for this function.
        vpc
            The network of the new instances, see `CpuCapacity`. Default: that of the pipeline or the function, if it
            has one.
        min_environments, max_environments
            How many environments there are, idle or not, and how many there may be.
        concurrency
            Requests at a time in one environment, each in a process with the model in its memory.
        memory_gib_per_vcpu
            GiB of memory for each vCPU: 2, 4 or 8.
        """
        if capacity is not None and vpc is not None:
            raise PropError("vpc must be left out with capacity, got both; the capacity has a VPC already")
        return OnManagedInstances(
            capacity=capacity,
            vpc=vpc,
            min_environments=min_environments,
            max_environments=max_environments,
            concurrency=concurrency,
            memory_gib_per_vcpu=memory_gib_per_vcpu,
        )
