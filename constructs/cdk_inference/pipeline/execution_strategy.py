"""The interface of every kind of execution: which functions run the stages of a route."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypedDict, TypeVar

from cdk_inference.common.props.prop_types import check_props

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Duration, RemovalPolicy, Size
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from constructs import Construct

    from cdk_inference.api.backends import ApiBackend
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.pipeline.routes import WorkflowRoute
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.routing.plan import PlannedRoute, RoutePlan
    from cdk_inference.routing.route import Route
    from cdk_inference.stages.base import FunctionOptions, StageFunction
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import ITrigger


class WorkflowLogs(TypedDict):
    """Props of every workflow; see `InferenceWorkflow`."""

    encryption_key: kms.IKey | None
    log_retention: logs.RetentionDays
    log_removal_policy: RemovalPolicy | None


@dataclass(frozen=True, kw_only=True)
class PipelineParts:
    """The parts and settings of a pipeline that all of its routes share.

    Attributes
    ----------
    trigger, results
        Shared parts.
    postprocess
        For a route without postprocessing.
    max_object_size, result_ttl, timeout, capacity
        As those of `InferencePipeline`.
    functions, workflows
        Their common props.
    release
        The table of a release, if two models run side by side.
    """

    trigger: ITrigger
    results: IResultsTable
    postprocess: Postprocess
    max_object_size: Size | None
    result_ttl: Duration | None
    timeout: Duration
    capacity: CapacityStrategy | None
    functions: FunctionOptions
    workflows: WorkflowLogs
    release: ReleaseControl | None = None


class RouteStages(ABC):
    """The functions of a route."""

    @property
    @abstractmethod
    def by_name(self) -> dict[str, IStage]:
        """The stages by what they do, in the order in which a batch goes through them."""

    @property
    @abstractmethod
    def input_stage(self) -> StageFunction:
        """The function that has the model's inputs, of each object by itself."""

    @property
    @abstractmethod
    def output_stage(self) -> StageFunction:
        """The function that has the model's outputs and writes the rows."""

    @property
    def answering_function(self) -> FusedFunction | None:
        """The function that answers a request by itself; None if the stages are separate functions."""
        return None

    @abstractmethod
    def api_backend(self, route: str | None) -> ApiBackend:
        """Return what answers the requests of a REST API.

        Parameters
        ----------
        route
            The name of the route on rows; None without a routing.
        """

    @abstractmethod
    def workflow_route(self, planned: PlannedRoute, *, routed: bool) -> WorkflowRoute:
        """Return a way through a workflow that uses these functions.

        Parameters
        ----------
        planned
            The routing's plan of the route.
        routed
            Whether the pipeline has a routing, so that states and rows name the route.
        """


Stages = TypeVar("Stages", bound=RouteStages)


@check_props
class ExecutionStrategy(ABC, Generic[Stages]):
    """Which functions run the stages of a route. `Execution` has a factory for each kind."""

    functions_in_turn: ClassVar[int]
    """How many functions a batch goes through, one after the other."""

    outputs_travel: ClassVar[bool] = False
    """Whether the outputs of models leave their functions, so that a release can compare them."""

    @abstractmethod
    def default_timeout(self, models: int) -> int:
        """Return the seconds of one invocation, unless the pipeline says otherwise.

        Parameters
        ----------
        models
            How many models an item may go through, one after the other.
        """

    @abstractmethod
    def check(self, plan: RoutePlan, capacity: CapacityStrategy | None) -> None:
        """Refuse routes and a capacity that cannot be executed this way.

        Raises
        ------
        PropError
            A route cannot be executed this way.
        """

    @abstractmethod
    def bind(
        self, scope: Construct, plan: RoutePlan, scopes: Mapping[str, Construct], parts: PipelineParts
    ) -> dict[str, Stages]:
        """Create the functions of all routes, and what they share; return the stages by the name of their route.

        Parameters
        ----------
        scope
            The pipeline.
        plan
            The routes.
        scopes
            The scope of each route's functions, by its name.
        parts
            The parts that all routes share.
        """

    @abstractmethod
    def advise_capacity(
        self,
        scope: Construct,
        route: Route,
        traffic: Traffic,
        capacity: CapacityStrategy | None,
        platform: LambdaPlatform | None = None,
    ) -> None:
        """Warn if a route that all items take would cost less with another capacity.

        Parameters
        ----------
        scope
            The construct that gets the warning.
        route
            The route.
        traffic
            How much is expected.
        capacity, platform
            The pipeline's.
        """
