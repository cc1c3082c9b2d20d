"""Execution by one function, which preprocesses, runs the model and postprocesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.execution_strategy import ExecutionStrategy, RouteStages
from cdk_inference.pipeline.routes import FusedRoute
from cdk_inference.routing.inference import CpuStrategy
from cdk_inference.stages.fused import HANDLER, FusedFunction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from constructs import Construct

    from cdk_inference.api.backends import ApiBackend
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.pipeline.execution_strategy import PipelineParts
    from cdk_inference.routing.plan import PlannedRoute, RoutePlan
    from cdk_inference.routing.route import Route
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.storage.work_bucket import IWorkBucket

_TIMEOUT = 40


@check_props
@dataclass(frozen=True)
class FusedStages(RouteStages):
    """The function of a route.

    Attributes
    ----------
    score
        The function that runs all stages.
    """

    score: FusedFunction

    @property
    def by_name(self) -> dict[str, IStage]:
        """The function."""
        return {"score": self.score}

    @property
    def input_stage(self) -> StageFunction:
        """The function."""
        return self.score

    @property
    def output_stage(self) -> StageFunction:
        """The function."""
        return self.score

    @property
    def answering_function(self) -> FusedFunction:
        """The function."""
        return self.score

    def api_backend(self, route: str | None) -> ApiBackend:  # noqa: ARG002 - rows of requests name none
        """Return the function."""
        from cdk_inference.api.backends import FunctionBackend  # noqa: PLC0415 - only for those who ask

        return FunctionBackend(self.score)

    def workflow_route(self, planned: PlannedRoute, *, routed: bool) -> FusedRoute:
        """Return a way through a workflow that uses the function."""
        return FusedRoute(
            score=self.score,
            name=planned.name if routed else "",
            route=planned.route.name if routed else None,
        )


@dataclass(frozen=True, kw_only=True)
class FusedExecution(ExecutionStrategy[FusedStages]):
    """One function for all stages, see `Execution.fused`.

    Parameters
    ----------
    handler
        The entry point of the function.
    work
        A work bucket for masks.
    """

    handler: str = HANDLER
    work: IWorkBucket | None = None

    functions_in_turn: ClassVar[int] = 1

    def default_timeout(self, models: int) -> int:  # noqa: ARG002 - it runs one
        """Return the seconds of one invocation."""
        return _TIMEOUT

    def check(self, plan: RoutePlan, capacity: CapacityStrategy | None) -> None:  # noqa: ARG002 - its function checks it
        """Refuse cascades and GPUs, which one function on the CPU does not have."""
        for planned in plan.planned.values():
            if planned.escalation is not None:
                raise PropError(
                    f"execution must be Execution.staged() for the cascade '{planned.name}', got Execution.fused(); "
                    "remove execution, or the cascade"
                )
        for route in plan.routes.values():
            _strategy(route)

    def bind(
        self,
        scope: Construct,
        plan: RoutePlan,
        scopes: Mapping[str, Construct],
        parts: PipelineParts,
    ) -> dict[str, FusedStages]:
        """Create the function of each route."""
        if self.work is not None:
            check_environment(scope, "work", self.work.bucket, fix="use a bucket of that account and Region")
        return {
            name: _create(scopes[name], route, parts, self.handler, self.work) for name, route in plan.routes.items()
        }

    def advise_capacity(
        self,
        scope: Construct,
        route: Route,
        traffic: Traffic,
        capacity: CapacityStrategy | None,
        platform: LambdaPlatform | None = None,
    ) -> None:
        """Warn if the function would cost less with capacity that is always on, unless the pipeline has chosen one."""
        from cdk_inference.routing.route_costs import advise  # noqa: PLC0415 - only for those who ask

        if capacity is None:
            advise(scope, route, traffic, fused=True, platform=platform)


def _create(
    scope: Construct, route: Route, parts: PipelineParts, handler: str, work: IWorkBucket | None
) -> FusedStages:
    strategy = _strategy(route)
    if route.explain is not None and route.explain.heat_map:
        raise PropError(
            f"heat_map of route '{route.name}' must be left out where one function runs all stages, got True; it has "
            "no work bucket, so draw the grid of the row"
        )
    return FusedStages(
        FusedFunction(
            scope,
            "Score",
            preprocess=route.preprocess,
            model=route.model,
            postprocess=route.postprocess if route.postprocess is not None else parts.postprocess,
            trigger=parts.trigger,
            results=parts.results,
            max_object_size=parts.max_object_size,
            result_ttl=parts.result_ttl,
            memory_size=strategy.memory_size,
            timeout=strategy.timeout if strategy.timeout is not None else parts.timeout,
            capacity=strategy.capacity if strategy.capacity is not None else parts.capacity,
            engine=strategy.engine,
            delivery=strategy.delivery,
            explanation=route.explanation,
            handler=handler,
            work=work,
            **parts.functions,
        )
    )


def _strategy(route: Route) -> CpuStrategy:
    """Return how a route runs its model.

    Raises
    ------
    PropError
        The model does not run in a plain function on the CPU.
    """
    if not isinstance(route.inference, CpuStrategy):
        raise PropError(
            f"inference of route '{route.name}' must be Inference.cpu(…) with Execution.fused(), got "
            f"{type(route.inference).__name__}; remove execution, or give the GPU a separate pipeline"
        )
    return route.inference
