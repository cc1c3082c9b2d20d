"""Inference on a GPU, behind the same small interface as inference on a CPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

import jsii
from aws_cdk import Duration, Tokenization
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.bundling.delivery import model_folder, shipped_files
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.capacity.managed_instances import LEAST_MEMORY, MOST_MEMORY, REGIONS
from cdk_inference.capacity.strategy import CapacityStrategy
from cdk_inference.common.platform import on_cpu_only
from cdk_inference.common.props.deprecations import renamed_attribute, renamed_props
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.gpu.capacity import GpuCapacity, IGpuCapacity
from cdk_inference.gpu.image import ImagePackage
from cdk_inference.stages.base import FunctionOptions, StageFunction, add_model_metadata, grant_work
from cdk_inference.stages.inference import INFERENCE_HANDLER, inference_environment
from cdk_inference.stages.interfaces import SLOW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_lambda as lambda_
    from aws_cdk import aws_stepfunctions as sfn

    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.stages.interfaces import IInvocable
    from cdk_inference.storage.work_bucket import IWorkBucket

# The runtime looks for a GPU, and says so if there is none.
_CUDA = {"ACCELERATOR": "cuda"}
LONGEST_WAIT = 6 * 60 * 60  # an execution has at most 25,000 events: about ten hours of being refused
_FALLBACK_MEMORY = 3538
_LAST_SECONDS = 10  # of an invocation: what was answered is written, or what hangs is killed
# A GPU has no use for 8-bit graphs: CUDA has no kernels for them, and falls back to the CPU node by node.
_GPU_PRECISIONS = frozenset({"float16", "float32"})


def default_max_wait() -> Duration:
    """Return how long a batch waits for a GPU. A function: durations are Node's, which imports must not wait for."""
    return Duration.minutes(20)


def default_timeout() -> Duration:
    """Return how long one run of a batch may take."""
    return Duration.minutes(1)


class GpuBackend(ABC):
    """The service that provides the GPU."""

    @abstractmethod
    def bind(
        self,
        scope: Construct,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        max_wait: Duration,
        options: FunctionOptions,
        explanation: Explanation | None = None,
    ) -> IInvocable:
        """Make what runs the model, within the construct `scope`.

        Parameters
        ----------
        scope
            The `GpuInference`; its parts are made within it.
        model, work
            As those of `GpuInference`.
        timeout
            The time limit of one run of a batch.
        max_wait
            How long a batch may wait for the GPU.
        options
            As those of `StageFunction`.
        explanation
            Which answers are explained, and how; None for none.
        """


@check_props
@dataclass(frozen=True, kw_only=True)
class LambdaGpu(GpuBackend):
    """A Lambda function with a GPU, on instances that Lambda starts when there is something to do.

    Parameters
    ----------
    accelerator_memory
        GiB of the GPU for each environment: 3, 6, 12, 16, 24 or 48.
    memory_size
        MiB of the function, 2,048 to 32,768.
    memory_gib_per_vcpu
        GiB of memory for each vCPU: 2, 4 or 8.
    min_environments, max_environments
        How many environments there are, idle or not, and how many there may be. With a minimum of 0, nothing runs and
        no instance is paid for while there is nothing to do; the network is.
    concurrency
        Requests at a time in one environment, each in a separate process. While one process has the model on the
        GPU, the others read and write tensors. Requests at about the same time run as one batch. With 1, the GPU waits
        for S3.
    capacity
        A capacity provider to share with other functions. Default: a new one.
    vpc
        Where the instances of a new provider are, see `GpuCapacity`. Default: the `vpc` of the pipeline, or a new
        `InferenceNetwork`.
    regions
        Where it may be deployed; checked if the stack names its region.
    """

    accelerator_memory: int = 24
    memory_size: int = 8192
    memory_gib_per_vcpu: int = 4
    min_environments: int = 0
    max_environments: int = 2
    concurrency: int = 4
    capacity: IGpuCapacity | None = None
    vpc: ec2.IVpc | None = None
    regions: Sequence[str] = REGIONS

    def __post_init__(self) -> None:
        if self.capacity is not None and self.vpc is not None:
            raise PropError("vpc must be left out with capacity, got both; the capacity has a VPC already")

    def bind(
        self,
        scope: Construct,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        max_wait: Duration,  # noqa: ARG002 - the workflow waits
        options: FunctionOptions,
        explanation: Explanation | None = None,
    ) -> IInvocable:
        """Make the function, and the capacity provider if there is none."""
        capacity = self.capacity
        if capacity is None:
            capacity = GpuCapacity(
                scope,
                "Capacity",
                vpc=self.vpc if self.vpc is not None else options.get("vpc"),
                vpc_subnets=options.get("vpc_subnets") if self.vpc is None else None,
                security_groups=options.get("security_groups") if self.vpc is None else None,
                encryption_key=options.get("encryption_key"),
                log_retention=options.get("log_retention", logs.RetentionDays.ONE_MONTH),
                log_removal_policy=options.get("log_removal_policy"),
                regions=self.regions,
            )
        return LambdaGpuFunction(
            scope,
            "OnGpu",
            backend=self,
            capacity=capacity,
            model=model,
            work=work,
            timeout=timeout,
            options=options,
            explanation=explanation,
        )


@jsii.implements(iam.IGrantable)
@check_props
@renamed_props(patience="max_wait")
class GpuInference(Construct):
    """Runs the model on a batch of tensors, on a GPU that is paid for only while there is something to do.

    While it is idle, no instance is paid for; a new network is, about 29 USD a month, see `InferenceNetwork`.

    It is an `IStage`. From zero, a GPU is there after minutes, in which requests fail; a workflow tries for as
    long as `max_wait` says.

    With the context key ``cdk-inference:accelerator=cpu``, which the local target passes, it is a zip function. That
    runs the same model with the same handler on the CPU.

    Parameters
    ----------
    model
        The artifact, in float16 or float32.
    work
        Where large tensors are read and written.
    backend
        The backend that has the GPU. Default: a Lambda function.
    max_wait
        How long a batch may wait for the GPU, 1 minute to 6 hours: it then goes to the dead-letter queue. Default: 20
        minutes.
    timeout
        The time limit of one run of a batch. Default: one minute.
    explanation
        Which answers are explained, and how. Default: none.
    **options
        As those of `StageFunction`.

    Attributes
    ----------
    stage
        The construct that the backend made, or the zip function.
    model_version
        Version of the model.
    transient_errors
        Errors of an invocation that say nothing about the items.
    """

    slow = SLOW
    patience = renamed_attribute("GpuInference.patience", "max_wait")

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        backend: GpuBackend | None = None,
        max_wait: Duration | None = None,
        timeout: Duration | None = None,
        explanation: Explanation | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        self.model_version = model.version
        platform = options.get("platform")
        if platform is not None and platform.architecture != "x86_64":
            raise PropError(
                f"platform must be x86_64 for GPU functions, got {platform}; leave it out, or use architecture='x86_64'"
            )
        _check_precision(model)
        self.max_wait = max_wait if max_wait is not None else default_max_wait()
        self.timeout = timeout if timeout is not None else default_timeout()
        for name, duration in (("max_wait", self.max_wait), ("timeout", self.timeout)):
            if duration.is_unresolved():
                raise PropError(
                    f"{name} must be known at synth, where what waits for a GPU is computed from it, got a token; give "
                    "a duration such as Duration.minutes(20)"
                )
        seconds("max_wait", self.max_wait, least=60, most=LONGEST_WAIT)
        self.reserved_concurrent_executions = options.get("reserved_concurrent_executions")
        made_by = backend if backend is not None else LambdaGpu()
        self.stage: IInvocable
        if on_cpu_only(self):
            self.stage = CpuFallback(
                self,
                "OnCpu",
                model=model,
                work=work,
                timeout=self.timeout,
                options=options,
                explanation=explanation,
            )
        else:
            self.stage = made_by.bind(
                self,
                model=model,
                work=work,
                timeout=self.timeout,
                max_wait=self.max_wait,
                options=options,
                explanation=explanation,
            )

    @property
    def transient_errors(self) -> tuple[str, ...]:
        """Errors of an invocation that say nothing about the items."""
        return self.stage.transient_errors

    @property
    def stage_functions(self) -> tuple[StageFunction, ...]:
        """The functions that run the model, see `IStage`."""
        return self.stage.stage_functions

    @property
    @jsii.member(jsii_name="grantPrincipal")
    def grant_principal(self) -> iam.IPrincipal:
        """The principal that runs the model, and to which others grant."""
        return self.stage.grant_principal

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee have batches run."""
        return self.stage.grant_invoke(grantee)

    def task(
        self,
        scope: Construct,
        id: str,
        *,
        payload: Mapping[str, object] | str,
        assign: Mapping[str, object] | None = None,
        output: object = None,
    ) -> sfn.CustomState:
        """Make the state that runs a batch, see `StageFunction.task`; the answer is ``$states.result.Payload``."""
        return self.stage.task(scope, id, payload=payload, assign=assign, output=output)

    def metric_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that failed as a whole, as a sum over 5 minutes."""
        return self.stage.metric_errors(**options)

    def metric_throttles(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations that were refused, as a sum over 5 minutes."""
        return self.stage.metric_throttles(**options)

    def metric_duration(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of an invocation, the average over 5 minutes."""
        return self.stage.metric_duration(**options)

    def metric_invocations(self, **options: Any) -> cloudwatch.Metric:
        """Count the invocations, as a sum over 5 minutes."""
        return self.stage.metric_invocations(**options)


class LambdaGpuFunction(StageFunction):
    """The function that `LambdaGpu` makes.

    Parameters
    ----------
    backend
        Its props.
    capacity
        The capacity provider.
    model, work, timeout, options, explanation
        As those of `GpuInference`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        backend: LambdaGpu,
        capacity: IGpuCapacity,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        options: FunctionOptions,
        explanation: Explanation | None,
    ) -> None:
        # Its bound is max_environments times concurrency; the platform is the image's.
        dropped = ("reserved_concurrent_executions", "platform")
        super().__init__(
            scope,
            id,
            package=ImagePackage(model, explanation),
            description=f"runs {model.manifest.name} on a GPU",
            environment={
                **inference_environment(model, work),
                **_CUDA,
                "ACCELERATOR_MEMORY_GIB": Tokenization.stringify_number(backend.accelerator_memory),
                # Tells the runtime that its workers are forked, so that a separate process holds the model.
                "GPU_CONCURRENCY": Tokenization.stringify_number(backend.concurrency),
                "ANSWER_SECONDS": f"{_answer_seconds(timeout):g}",
                **({} if explanation is None else explanation.engine_environment),
            },
            memory_size=backend.memory_size,
            timeout=timeout,
            capacity=_OnGpu(backend, capacity),
            **cast("FunctionOptions", {name: value for name, value in options.items() if name not in dropped}),
        )
        add_model_metadata(self, model, stage=scope.node.id)
        grant_work(self, work)
        if explanation is not None:
            explanation.record(self)


@dataclass(frozen=True)
class _OnGpu(CapacityStrategy):
    min_memory_size: ClassVar[int] = LEAST_MEMORY
    max_memory_size: ClassVar[int] = MOST_MEMORY
    has_network: ClassVar[bool] = True

    backend: LambdaGpu
    capacity: IGpuCapacity

    def __str__(self) -> str:
        return "a managed instance"

    def publish(self, scope: Construct, function: lambda_.Function) -> lambda_.IFunction:  # noqa: ARG002
        return self.capacity.add_function(
            function,
            accelerator_memory=self.backend.accelerator_memory,
            min_environments=self.backend.min_environments,
            max_environments=self.backend.max_environments,
            concurrency=self.backend.concurrency,
            memory_gib_per_vcpu=self.backend.memory_gib_per_vcpu,
        )


class CpuFallback(StageFunction):
    """Runs on the CPU what is made for a GPU, see `platform.ACCELERATOR_KEY`.

    Parameters
    ----------
    model, work, timeout, options, explanation
        As those of `GpuInference`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        options: FunctionOptions,
        explanation: Explanation | None,
    ) -> None:
        path = model_folder(scope, model)
        super().__init__(
            scope,
            id,
            package=ZipPackage(
                handler=INFERENCE_HANDLER,
                engine="python",
                sources={
                    **(shipped_files(path, "model") if path is not None else {}),
                    **({} if explanation is None else explanation.files),
                },
            ),
            description=f"runs {model.manifest.name}, on the CPU for want of a GPU",
            environment={
                **inference_environment(model, work),
                **_CUDA,
                **({} if explanation is None else explanation.engine_environment),
            },
            memory_size=_FALLBACK_MEMORY,
            timeout=timeout,
            **options,
        )
        add_model_metadata(self, model, stage=scope.node.id)
        grant_work(self, work)
        if explanation is not None:
            explanation.record(self)


def _answer_seconds(timeout: Duration) -> float:
    """Return when the handler gives up a GPU that hangs: before Lambda ends it, which the items would pay for."""
    return round(timeout.to_seconds() - min(_LAST_SECONDS, timeout.to_seconds() / 3), 1)


def _check_precision(model: ModelArtifact) -> None:
    precision = model.manifest.precision
    if precision not in _GPU_PRECISIONS and not (model.path is None and precision == "auto"):
        raise PropError(
            f"precision of model {model.manifest.name} must be {' or '.join(sorted(_GPU_PRECISIONS))} on a GPU, got "
            f"{precision}; make a model of the same recipe for it: ModelArtifact(…, precision=Float16())"
        )
