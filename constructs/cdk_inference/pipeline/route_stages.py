"""The stages of a route: its functions, and the workflow that waits for its GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self, TypedDict, Unpack

from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.errors import PropError
from cdk_inference.pipeline.workflow import FusedLeg, Leg
from cdk_inference.routing.inference import CpuStrategy
from cdk_inference.stages.base import move_together
from cdk_inference.stages.postprocess import PostprocessFunction
from cdk_inference.stages.preprocess import PreprocessFunction

if TYPE_CHECKING:
    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from constructs import Construct

    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.gpu.inference import GpuInference
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.routing.route import Route
    from cdk_inference.routing.strategies import PlannedLeg
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.inference import CpuInference
    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.storage.results import ResultsTable
    from cdk_inference.storage.work_bucket import WorkBucket
    from cdk_inference.triggers.s3 import S3Trigger


class WorkflowLogs(TypedDict):
    """Props of every workflow; see `InferenceWorkflow`."""

    encryption_key: kms.IKey | None
    log_retention: logs.RetentionDays
    log_removal_policy: RemovalPolicy | None


class RouteOptions(TypedDict):
    """The settings that all routes of a pipeline share.

    Attributes
    ----------
    trigger, results
        The pipeline's parts that they use.
    postprocess
        For a route that has none of its own.
    max_object_bytes, result_ttl_days, timeout, capacity
        As those of `InferencePipeline`.
    functions
        Props of all functions.
    """

    trigger: S3Trigger
    results: ResultsTable
    postprocess: Postprocess
    max_object_bytes: int
    result_ttl_days: int | None
    timeout: Duration
    capacity: CapacityStrategy | None
    functions: FunctionOptions


@dataclass(frozen=True)
class RouteStages:
    """The parts of a route.

    Attributes
    ----------
    preprocess, inference, postprocess
        The stages.
    gpu_workflow
        Who waits for the GPU; None on a CPU.
    """

    preprocess: PreprocessFunction
    inference: CpuInference | GpuInference
    postprocess: PostprocessFunction
    gpu_workflow: GpuWorkflow | None

    @property
    def score(self) -> NoReturn:
        """There is none."""
        raise PropError("the pipeline is not fused; take .preprocess, .inference or .postprocess, or pass fused=True")

    @classmethod
    def create(
        cls,
        scope: Construct,
        route: Route,
        *,
        work: WorkBucket,
        confidence: bool,
        preprocess_memory_size: int,
        postprocess_memory_size: int,
        workflow: WorkflowLogs,
        **common: Unpack[RouteOptions],
    ) -> Self:
        """Create the stages in a scope.

        Parameters
        ----------
        route
            The route.
        work
            Where large tensors go.
        confidence
            Whether inference has to say how sure it is.
        preprocess_memory_size, postprocess_memory_size
            As those of `InferencePipeline`.
        workflow
            What all workflows of the pipeline have in common.
        **common
            What all routes of the pipeline have in common.
        """
        functions, timeout, capacity = common["functions"], common["timeout"], common["capacity"] or ON_DEMAND
        preprocessing = PreprocessFunction(
            scope,
            "Preprocess",
            stage=route.preprocess,
            model=route.model,
            trigger=common["trigger"],
            work=work,
            max_object_bytes=common["max_object_bytes"],
            memory_size=preprocess_memory_size,
            timeout=timeout,
            capacity=capacity,
            **functions,
        )
        inference = route.inference.bind(
            scope, "Inference", model=route.model, work=work, timeout=timeout, confidence=confidence, **functions
        )
        postprocessing = PostprocessFunction(
            scope,
            "Postprocess",
            stage=route.postprocess if route.postprocess is not None else common["postprocess"],
            model=route.model,
            work=work,
            results=common["results"],
            result_ttl_days=common["result_ttl_days"],
            memory_size=postprocess_memory_size,
            timeout=timeout,
            capacity=capacity,
            **functions,
        )
        move_together(preprocessing, getattr(inference, "stage", inference), postprocessing)
        if confidence:
            work.grant_write(postprocessing)  # answers that are too large for the state, on their way to the next model
        gpu_workflow = None
        if inference.slow:
            gpu_workflow = _gpu_workflow(scope, inference, postprocessing, common["trigger"], workflow)
        return cls(preprocessing, inference, postprocessing, gpu_workflow)

    def leg(self, planned: PlannedLeg, *, routed: bool) -> Leg:
        """Return the leg of a workflow that goes through these stages."""
        return Leg(
            preprocess=self.preprocess,
            inference=self.inference,
            postprocess=self.postprocess,
            name=planned.name if routed else "",
            route=planned.route.name if routed else None,
            gpu_workflow=self.gpu_workflow,
            escalation=planned.escalation,
        )


def _gpu_workflow(
    scope: Construct,
    inference: CpuInference | GpuInference,
    postprocess: PostprocessFunction,
    trigger: S3Trigger,
    logs: WorkflowLogs,
) -> GpuWorkflow | None:
    """Make who waits for the GPU, if there is one."""
    from cdk_inference.gpu.inference import GpuInference  # noqa: PLC0415 - only apps with a GPU wait for it
    from cdk_inference.gpu.workflow import GpuWorkflow  # noqa: PLC0415

    if not isinstance(inference, GpuInference):
        return None
    return GpuWorkflow(
        scope,
        "GpuWorkflow",
        inference=inference,
        postprocess=postprocess,
        trigger=trigger,
        patience=inference.patience,
        **logs,
    )


@dataclass(frozen=True)
class FusedStages:
    """The parts of a route in a fused pipeline.

    Attributes
    ----------
    score
        The one function.
    gpu_workflow
        None: nothing waits for a GPU.
    """

    score: FusedFunction
    gpu_workflow: None = None

    @classmethod
    def create(cls, scope: Construct, route: Route, **common: Unpack[RouteOptions]) -> Self:
        """Create the function in a scope.

        Parameters
        ----------
        route
            The route.
        **common
            What all routes of the pipeline have in common.

        Raises
        ------
        PropError
            The model does not run in a plain function on the CPU.
        """
        from cdk_inference.stages.fused import FusedFunction  # noqa: PLC0415 - for fused pipelines

        strategy = route.inference
        if not isinstance(strategy, CpuStrategy):
            raise PropError(f"route '{route.name}' does not run on the CPU, where a fused function runs")
        score = FusedFunction(
            scope,
            "Score",
            preprocess=route.preprocess,
            model=route.model,
            postprocess=route.postprocess if route.postprocess is not None else common["postprocess"],
            trigger=common["trigger"],
            results=common["results"],
            max_object_bytes=common["max_object_bytes"],
            result_ttl_days=common["result_ttl_days"],
            memory_size=strategy.memory_size,
            timeout=strategy.timeout if strategy.timeout is not None else common["timeout"],
            capacity=strategy.capacity if strategy.capacity is not None else common["capacity"],
            engine=strategy.engine,
            delivery=strategy.delivery,
            **common["functions"],
        )
        return cls(score)

    def leg(self, planned: PlannedLeg, *, routed: bool) -> FusedLeg:
        """Return the leg of a workflow that goes through the function."""
        return FusedLeg(
            score=self.score,
            name=planned.name if routed else "",
            route=planned.route.name if routed else None,
        )

    @property
    def preprocess(self) -> NoReturn:
        """There is none."""
        raise _fused("preprocess")

    @property
    def inference(self) -> NoReturn:
        """There is none."""
        raise _fused("inference")

    @property
    def postprocess(self) -> NoReturn:
        """There is none."""
        raise _fused("postprocess")


def _fused(stage: str) -> PropError:
    return PropError(f"the pipeline is fused, so that {stage} has no function of its own; take .score, which has all")
