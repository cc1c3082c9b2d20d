"""Instances with a GPU that Lambda manages, and the functions that run on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

from aws_cdk import Token
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from cdk_inference.capacity.managed_instances import (
    REGIONS,
    ManagedInstances,
    ManagedInstancesOptions,
    check_region,
    place,
)
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.gpu.checks import ACCELERATOR_MEMORY, check_templates

if TYPE_CHECKING:
    from collections.abc import Sequence


class IGpuCapacity(Protocol):
    """Capacity with GPUs: new, or made by another stack."""

    capacity_provider_arn: str

    def add_function(
        self,
        function: lambda_.Function,
        *,
        accelerator_memory: int = 24,
        min_environments: int = 0,
        max_environments: int = 2,
        concurrency: int = 1,
        memory_gib_per_vcpu: int = 4,
    ) -> lambda_.Alias:
        """Run a function on a GPU, and return the alias to invoke; see `GpuCapacity.add_function`."""


@check_props
class GpuCapacity(ManagedInstances):
    """A capacity provider for functions with a GPU; Lambda starts an instance when there is something to do.

    Parameters
    ----------
    **options
        As those of `ManagedInstances`. The architecture is x86_64: Lambda has GPUs on no other.
    """

    def __init__(self, scope: Construct, id: str, **options: Unpack[ManagedInstancesOptions]) -> None:
        super().__init__(scope, id, architecture=lambda_.Architecture.X86_64, **options)

    @classmethod
    def from_capacity_provider_arn(
        cls, scope: Construct, id: str, capacity_provider_arn: str, *, regions: Sequence[str] = REGIONS
    ) -> IGpuCapacity:
        """Use the capacity provider of another stack, by its `capacity_provider_arn`."""
        return SharedGpuCapacity(scope, id, capacity_provider_arn, regions=regions)

    def add_function(
        self: IGpuCapacity,
        function: lambda_.Function,
        *,
        accelerator_memory: int = 24,
        min_environments: int = 0,
        max_environments: int = 2,
        concurrency: int = 1,
        memory_gib_per_vcpu: int = 4,
    ) -> lambda_.Alias:
        """Run a function on a GPU, and return the alias to invoke.

        The function must be a container image for x86_64 with at least 2,048 MiB. A function that cannot work fails the
        synthesis: here as far as it is known, the rest in the finished template, escape hatches included.

        Parameters
        ----------
        function
            The function; its versions are published by this call, so configure it before.
        accelerator_memory
            GiB of the GPU for each environment: 3, 6, 12, 16, 24 or 48.
        min_environments
            0 scales to zero: nothing runs, and nothing is paid for, until a request comes; it and others fail for some
            minutes then.
        max_environments
            Most environments, which limits the cost.
        concurrency
            Requests at a time in one environment, each in a separate process that shares the GPU.
        memory_gib_per_vcpu
            GiB of memory for each vCPU: 2, 4 or 8.

        Raises
        ------
        PropError
            A value is out of range.
        """
        if not Token.is_unresolved(accelerator_memory) and accelerator_memory not in ACCELERATOR_MEMORY:
            raise PropError(
                f"accelerator_memory must be one of {', '.join(map(str, ACCELERATOR_MEMORY))} GiB, got "
                f"{accelerator_memory}"
            )
        resource = function.node.default_child
        assert isinstance(resource, lambda_.CfnFunction)  # noqa: S101 - for mypy
        # Newer than CDK: neither its constructs nor its schema know the property, nor that a version depends on it.
        lambda_.Function.classify_version_property("AcceleratorConfig", True)
        resource.add_property_override("AcceleratorConfig.AcceleratorMemorySize", accelerator_memory)
        acknowledgments.accelerator(resource)
        check_templates(function)
        return place(
            function,
            self.capacity_provider_arn,
            min_environments=min_environments,
            max_environments=max_environments,
            concurrency=concurrency,
            memory_gib_per_vcpu=memory_gib_per_vcpu,
        )


class SharedGpuCapacity(Construct):
    """The capacity provider of another stack, see `GpuCapacity.from_capacity_provider_arn`."""

    add_function = GpuCapacity.add_function

    def __init__(
        self, scope: Construct, id: str, capacity_provider_arn: str, *, regions: Sequence[str] = REGIONS
    ) -> None:
        super().__init__(scope, id)
        check_region(self, regions)
        self.capacity_provider_arn = capacity_provider_arn
