"""The stages of a route: its functions, and the workflow that waits for its GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypedDict

from cdk_inference.capacity import BEHIND_ALIAS, ON_DEMAND
from cdk_inference.functions import PostprocessFunction, PreprocessFunction
from cdk_inference.gpu.inference import GpuInference
from cdk_inference.gpu.workflow import GpuWorkflow
from cdk_inference.workflow import Leg

if TYPE_CHECKING:
    from aws_cdk import Duration, RemovalPolicy
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_logs as logs
    from constructs import Construct

    from cdk_inference.functions import CpuInference, FunctionOptions
    from cdk_inference.results import ResultsTable
    from cdk_inference.routing.route import Route
    from cdk_inference.routing.strategies import PlannedLeg
    from cdk_inference.stages import Postprocess
    from cdk_inference.trigger import S3Trigger
    from cdk_inference.work import WorkBucket


class WorkflowLogs(TypedDict):
    """Props of every workflow; see `InferenceWorkflow`."""

    encryption_key: kms.IKey | None
    log_retention: logs.RetentionDays
    log_removal_policy: RemovalPolicy | None


@dataclass(frozen=True)
class RouteStages:
    """What a route is made of.

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

    @classmethod
    def create(
        cls,
        scope: Construct,
        route: Route,
        *,
        trigger: S3Trigger,
        work: WorkBucket,
        results: ResultsTable,
        postprocess: Postprocess,
        confidence: bool,
        max_object_bytes: int,
        result_ttl_days: int | None,
        preprocess_memory_size: int,
        postprocess_memory_size: int,
        timeout: Duration,
        functions: FunctionOptions,
        workflow: WorkflowLogs,
    ) -> Self:
        """Create the stages in a scope.

        Parameters
        ----------
        route
            The route.
        trigger, work, results
            The pipeline's parts that they use.
        postprocess
            For a route that has none of its own.
        confidence
            Whether inference has to say how sure it is.
        max_object_bytes, result_ttl_days, preprocess_memory_size, postprocess_memory_size, timeout
            As those of `InferencePipeline`.
        functions, workflow
            What all functions and workflows of the pipeline have in common.
        """
        preprocessing = PreprocessFunction(
            scope,
            "Preprocess",
            stage=route.preprocess,
            model=route.model,
            trigger=trigger,
            work=work,
            max_object_bytes=max_object_bytes,
            memory_size=preprocess_memory_size,
            timeout=timeout,
            **functions,
        )
        inference = route.inference.bind(
            scope, "Inference", model=route.model, work=work, timeout=timeout, confidence=confidence, **functions
        )
        postprocessing = PostprocessFunction(
            scope,
            "Postprocess",
            stage=route.postprocess if route.postprocess is not None else postprocess,
            model=route.model,
            work=work,
            results=results,
            result_ttl_days=result_ttl_days,
            memory_size=postprocess_memory_size,
            timeout=timeout,
            capacity=BEHIND_ALIAS if route.inference.slow else ON_DEMAND,
            **functions,
        )
        if confidence:
            work.grant_write(postprocessing)  # answers that are too large for the state, on their way to the next model
        gpu_workflow = None
        if isinstance(inference, GpuInference):
            gpu_workflow = GpuWorkflow(
                scope,
                "GpuWorkflow",
                inference=inference,
                postprocess=postprocessing,
                trigger=trigger,
                patience=inference.patience,
                **workflow,
            )
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
