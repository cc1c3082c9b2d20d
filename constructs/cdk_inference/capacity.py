"""What the environments of a function stand on: Lambda's own, made on demand, or capacity that is always there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aws_cdk import RemovalPolicy
from aws_cdk import aws_lambda as lambda_

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from constructs import Construct

ALIAS = "live"
"""Name of the alias that workflows invoke where a version alone does not do."""


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

    def version_options(self) -> lambda_.VersionOptions | None:
        """Return what the version that is published is told."""
        return None

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return "Lambda"

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
class Provisioned(Capacity):
    """Environments that Lambda keeps ready, see `Capacity.provisioned`."""

    environments: int

    def __post_init__(self) -> None:
        if self.environments < 1:
            raise PropError(f"environments is {self.environments}; provisioned concurrency is at least 1")

    def version_options(self) -> lambda_.VersionOptions:
        """Delete old versions."""
        return lambda_.VersionOptions(removal_policy=RemovalPolicy.DESTROY)

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:
        """Return an alias: Lambda moves it when the new version's environments are ready, and the old ones serve on."""
        return lambda_.Alias(
            scope,
            "Alias",
            alias_name=ALIAS,
            version=function.current_version,
            provisioned_concurrent_executions=self.environments,
        )


ON_DEMAND = OnDemand()
