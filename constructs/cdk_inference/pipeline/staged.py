"""Execution by separate functions: one for each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.execution_strategy import ExecutionStrategy, RouteStages
from cdk_inference.pipeline.routes import StagedRoute
from cdk_inference.stages.base import move_together
from cdk_inference.stages.postprocess import PostprocessFunction
from cdk_inference.stages.preprocess import PreprocessFunction
from cdk_inference.storage.work_bucket import WorkBucket
from cdk_inference.triggers.base import IS3Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

    from cdk_inference.api.backends import ApiBackend
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.pipeline.execution_strategy import PipelineParts
    from cdk_inference.routing.plan import PlannedRoute, RoutePlan
    from cdk_inference.routing.route import Route
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.storage.work_bucket import IWorkBucket

_TIMEOUTS = {1: 30, 2: 18}


@check_props
@dataclass(frozen=True)
class SeparateStages(RouteStages):
    """The functions of a route, one for each stage.

    Attributes
    ----------
    preprocess, inference, postprocess
        The stages.
    work
        The bucket for tensors that are too large for the state of the workflow. All routes of a pipeline share it.
    gpu_workflow
        The workflow that waits for the GPU; None on a CPU.
    """

    preprocess: PreprocessFunction
    inference: IStage
    postprocess: PostprocessFunction
    work: IWorkBucket
    gpu_workflow: GpuWorkflow | None

    @property
    def by_name(self) -> dict[str, IStage]:
        """The three stages."""
        return {"preprocess": self.preprocess, "inference": self.inference, "postprocess": self.postprocess}

    @property
    def input_stage(self) -> StageFunction:
        """The preprocessing."""
        return self.preprocess

    @property
    def output_stage(self) -> StageFunction:
        """The postprocessing."""
        return self.postprocess

    def api_backend(self, route: str | None) -> ApiBackend:
        """Return a workflow of these functions."""
        from cdk_inference.api.backends import WorkflowBackend  # noqa: PLC0415 - only for those who ask

        return WorkflowBackend(
            preprocess=self.preprocess, inference=self.inference, postprocess=self.postprocess, route=route
        )

    def workflow_route(self, planned: PlannedRoute, *, routed: bool) -> StagedRoute:
        """Return a way through a workflow that uses these functions."""
        return StagedRoute(
            preprocess=self.preprocess,
            inference=self.inference,
            postprocess=self.postprocess,
            name=planned.name if routed else "",
            route=planned.route.name if routed else None,
            gpu_workflow=self.gpu_workflow,
            escalation=planned.escalation,
        )


@dataclass(frozen=True, kw_only=True)
class StagedExecution(ExecutionStrategy[SeparateStages]):
    """A function for each stage, see `Execution.staged`."""

    functions_in_turn: ClassVar[int] = 3
    outputs_travel: ClassVar[bool] = True

    preprocess_memory_size: int
    postprocess_memory_size: int
    work: IWorkBucket | None = None

    def default_timeout(self, models: int) -> int:
        """Return the seconds of one invocation: a third of the time for each stage, and time to find a slow item."""
        return _TIMEOUTS[models]

    def check(self, plan: RoutePlan, capacity: CapacityStrategy | None) -> None:  # noqa: ARG002 - it takes any route
        """Refuse a memory size that the capacity does not have."""
        if capacity is not None:
            capacity.check_memory("preprocess_memory_size", self.preprocess_memory_size, "preprocessing")
            capacity.check_memory("postprocess_memory_size", self.postprocess_memory_size, "postprocessing")

    def bind(
        self, scope: Construct, plan: RoutePlan, scopes: Mapping[str, Construct], parts: PipelineParts
    ) -> dict[str, SeparateStages]:
        """Create the work bucket, and the functions of each route."""
        work = self.work
        if work is None:
            work = WorkBucket(
                scope,
                "Work",
                encryption_key=parts.workflows["encryption_key"],
                removal_policy=parts.workflows["log_removal_policy"],
            )
        else:
            check_environment(scope, "work", work.bucket, fix="use a bucket of that account and Region")
        return {
            name: self._create(scopes[name], route, work, parts, _thresholds(route, plan))
            for name, route in plan.routes.items()
        }

    def _create(
        self,
        scope: Construct,
        route: Route,
        work: IWorkBucket,
        parts: PipelineParts,
        thresholds: Sequence[float | None],
    ) -> SeparateStages:
        """Create the stages of a route; where one of its ways has a threshold, inference says how sure it is."""
        escalating = [threshold for threshold in thresholds if threshold is not None]
        confidence = bool(escalating)
        explanation = route.explanation
        if explanation is not None and len(escalating) == len(thresholds):
            explanation = explanation.above(min(escalating))
        capacity = parts.capacity if parts.capacity is not None else ON_DEMAND
        ending = route.postprocess if route.postprocess is not None else parts.postprocess
        preprocess = PreprocessFunction(
            scope,
            "Preprocess",
            stage=route.preprocess.keeping(ending.needs),
            model=route.model,
            trigger=parts.trigger,
            work=work,
            max_object_size=parts.max_object_size,
            memory_size=self.preprocess_memory_size,
            timeout=parts.timeout,
            capacity=capacity,
            explanation=explanation,
            **parts.functions,
        )
        inference = route.inference.bind(
            scope,
            "Inference",
            model=route.model,
            work=work,
            timeout=parts.timeout,
            confidence=confidence,
            explanation=explanation,
            **parts.functions,
        )
        postprocess = PostprocessFunction(
            scope,
            "Postprocess",
            stage=ending,
            model=route.model,
            work=work,
            results=parts.results,
            result_ttl=parts.result_ttl,
            memory_size=self.postprocess_memory_size,
            timeout=parts.timeout,
            capacity=capacity,
            **parts.functions,
        )
        move_together(preprocess, inference, postprocess)
        if confidence:
            work.grant_write(postprocess)  # answers that are too large for the state, on their way to the next model
        gpu_workflow = None
        if inference.max_wait is not None:
            from cdk_inference.gpu.workflow import GpuWorkflow  # noqa: PLC0415 - only apps with a GPU wait for it

            if not isinstance(parts.trigger, IS3Trigger):
                raise PropError(
                    f"inference of route '{route.name}' must not wait for a GPU with a trigger for messages, got "
                    f"{type(route.inference).__name__}; use Inference.cpu(…), or put what is sent into an S3 bucket"
                )

            gpu_workflow = GpuWorkflow(
                scope,
                "GpuWorkflow",
                inference=inference,
                postprocess=postprocess,
                trigger=parts.trigger,
                max_wait=inference.max_wait,
                outcomes=None if parts.release is None else parts.release.outcomes(route),
                **parts.workflows,
            )
        return SeparateStages(preprocess, inference, postprocess, work, gpu_workflow)

    def advise_capacity(
        self,
        scope: Construct,
        route: Route,
        traffic: Traffic,
        capacity: CapacityStrategy | None,  # noqa: ARG002 - it is not that of inference
        platform: LambdaPlatform | None = None,
    ) -> None:
        """Warn if inference would cost less with capacity that is always on."""
        from cdk_inference.routing.route_costs import advise  # noqa: PLC0415 - only for those who ask

        advise(scope, route, traffic, platform=platform)


def _thresholds(route: Route, plan: RoutePlan) -> list[float | None]:
    """Return below which confidence items are passed on, for each way that uses the route; None where none are."""
    return [
        None if planned.escalation is None else planned.escalation.threshold
        for planned in plan.planned.values()
        if planned.route is route
    ]
