"""Inference on a GPU, behind the same small interface as inference on a CPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack

import jsii
from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_inference.durations import seconds
from cdk_inference.errors import PropError
from cdk_inference.functions import (
    INFERENCE_HANDLER,
    TRANSIENT_ERRORS,
    FunctionOptions,
    StageFunction,
    grant_work,
    inference_environment,
    mark_model,
)
from cdk_inference.packages import ZipPackage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_stepfunctions as sfn

    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.work import WorkBucket

ACCELERATOR_KEY = "cdk-inference:accelerator"
"""Context key that, with the value ``cpu``, runs what is made for a GPU on the CPU: the local target has none."""

DEFAULT_PATIENCE = Duration.minutes(20)
_DAY = 24 * 60 * 60
_DEFAULT_TIMEOUT = Duration.minutes(1)
_FALLBACK_MEMORY = 3538
# A GPU has no use for 8-bit graphs: CUDA has no kernels for them, and falls back to the CPU node by node.
_GPU_PRECISIONS = frozenset({"float16", "float32"})


class GpuStage(Protocol):
    """What a workflow needs of a backend that was bound; `StageFunction` has it too."""

    timeout: Duration

    @property
    def transient_errors(self) -> tuple[str, ...]:
        """Errors of an invocation that say nothing about the items."""

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """Who runs the model."""

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee do what `task` does."""

    def task(
        self,
        scope: Construct,
        id: str,
        *,
        payload: Mapping[str, object] | str,
        assign: Mapping[str, object] | None = None,
        output: object = None,
    ) -> sfn.CustomState:
        """Make the state that runs the model."""

    def metric_errors(self, **options: Any) -> cloudwatch.Metric:
        """Count what failed as a whole."""

    def metric_throttles(self, **options: Any) -> cloudwatch.Metric:
        """Count what was refused."""

    def metric_duration(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds of a run."""

    def metric_invocations(self, **options: Any) -> cloudwatch.Metric:
        """Count the runs."""


class GpuBackend(ABC):
    """Whose GPU it is."""

    @abstractmethod
    def bind(
        self,
        scope: Construct,
        *,
        model: ModelArtifact,
        work: WorkBucket,
        timeout: Duration,
        patience: Duration,
        options: FunctionOptions,
    ) -> GpuStage:
        """Make what runs the model, within the construct `scope`.

        Parameters
        ----------
        scope
            The `GpuInference`; its parts are made within it.
        model, work
            As those of `GpuInference`.
        timeout
            Of one run of a batch.
        patience
            How long a batch may wait for the GPU.
        options
            As those of `StageFunction`.
        """


@dataclass(frozen=True, kw_only=True)
class LambdaGpu(GpuBackend):
    """A Lambda function with a GPU, on a capacity provider."""

    def bind(
        self,
        scope: Construct,
        *,
        model: ModelArtifact,
        work: WorkBucket,
        timeout: Duration,
        patience: Duration,
        options: FunctionOptions,
    ) -> GpuStage:
        """Make the function."""
        raise NotImplementedError("the function with a GPU")


@jsii.implements(iam.IGrantable)
class GpuInference(Construct):
    """Runs the model on a batch of tensors, on a GPU that costs nothing while it is idle.

    It has the interface of a `StageFunction`, and is *slow*: from zero, a GPU is there after minutes, in which
    requests fail. A workflow tries for as long as `patience` says.

    With the context key ``cdk-inference:accelerator=cpu``, which the local target passes, it is a zip function that
    runs the same model with the same handler on the CPU.

    Parameters
    ----------
    model
        The artifact, in float16 or float32.
    work
        Where large tensors are read and written.
    backend
        Whose GPU. Default: that of a Lambda function.
    patience
        How long a batch may wait for the GPU: it then goes to the dead-letter queue. Default: 20 minutes.
    timeout
        Of one run of a batch. Default: one minute.
    **options
        As those of `StageFunction`.

    Attributes
    ----------
    stage
        What the backend made, or the zip function.
    slow
        True: it can take longer than an express workflow may wait.
    transient_errors
        Errors of an invocation that say nothing about the items.
    """

    slow: ClassVar[bool] = True

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: WorkBucket,
        backend: GpuBackend | None = None,
        patience: Duration | None = None,
        timeout: Duration | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        platform = options.get("platform")
        if platform is not None and platform.architecture != "x86_64":
            raise PropError(
                f"platform is {platform}; GPU functions are x86_64 only: leave it out, or use architecture='x86_64'"
            )
        _check_precision(model)
        self.patience = patience if patience is not None else DEFAULT_PATIENCE
        seconds("patience", self.patience, least=60, most=_DAY)
        self.timeout = timeout if timeout is not None else _DEFAULT_TIMEOUT
        self.stage: GpuStage
        if self._on_cpu():
            self.stage = CpuFallback(self, "OnCpu", model=model, work=work, timeout=self.timeout, options=options)
        else:
            made_by = backend if backend is not None else LambdaGpu()
            self.stage = made_by.bind(
                self, model=model, work=work, timeout=self.timeout, patience=self.patience, options=options
            )

    def _on_cpu(self) -> bool:
        accelerator = self.node.try_get_context(ACCELERATOR_KEY)
        if accelerator not in (None, "cpu", "gpu"):
            raise PropError(f"context {ACCELERATOR_KEY} is '{accelerator}'; use 'cpu' or 'gpu'")
        return bool(accelerator == "cpu")

    @property
    def transient_errors(self) -> tuple[str, ...]:
        """Errors of an invocation that say nothing about the items."""
        return self.stage.transient_errors

    @property
    @jsii.member(jsii_name="grantPrincipal")
    def grant_principal(self) -> iam.IPrincipal:
        """Who runs the model, so that this is what others grant to."""
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


class CpuFallback(StageFunction):
    """Runs on the CPU what is made for a GPU, see `ACCELERATOR_KEY`.

    Parameters
    ----------
    model, work, timeout, options
        As those of `GpuInference`.
    """

    transient_errors: ClassVar[tuple[str, ...]] = TRANSIENT_ERRORS

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: WorkBucket,
        timeout: Duration,
        options: FunctionOptions,
    ) -> None:
        super().__init__(
            scope,
            id,
            package=ZipPackage(
                handler=INFERENCE_HANDLER,
                runtime_requirements="inference",
                sources={"model": model.path} if model.path is not None else {},
            ),
            description=f"runs {model.manifest.name} {model.version}, on the CPU for want of a GPU",
            environment=inference_environment(model, work),
            memory_size=_FALLBACK_MEMORY,
            timeout=timeout,
            **options,
        )
        mark_model(self, model, stage=scope.node.id)
        grant_work(self, work)


def _check_precision(model: ModelArtifact) -> None:
    precision = model.manifest.precision
    if precision not in _GPU_PRECISIONS and not (model.path is None and precision == "auto"):
        raise PropError(
            f"model {model.manifest.name} is in {precision}, which is for CPUs; make one for the GPU of the same "
            "recipe: ModelArtifact(…, precision=Float16())"
        )
