"""Where a model runs: the choice that a pipeline is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from cdk_inference.bundling.delivery import ModelDelivery
from cdk_inference.common.props.deprecations import renamed_attribute, renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.stages.inference import CpuInference
from cdk_inference.stages.interfaces import SLOW

if TYPE_CHECKING:
    from aws_cdk import Duration
    from constructs import Construct

    from cdk_inference.bundling.packages import Engine
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.gpu.inference import GpuBackend, GpuInference
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.storage.work_bucket import IWorkBucket


@check_props
@dataclass(frozen=True)
class Inference(ABC):
    """How a pipeline runs its model; made by one of the class methods."""

    @classmethod
    def cpu(
        cls,
        *,
        memory_size: int = 1769,
        timeout: Duration | None = None,
        capacity: CapacityStrategy | None = None,
        engine: Engine | None = None,
        delivery: ModelDelivery | None = None,
    ) -> Inference:
        """Run it in a Lambda function on the CPU, within the express workflow.

        Parameters
        ----------
        memory_size
            MiB; 1,769 MiB are one vCPU.
        timeout
            The time limit of one invocation. Default: the pipeline's.
        capacity
            Where environments come from. Default: Lambda makes them on demand.
        engine
            The engine: ONNX Runtime's shared library (``"c_api"``), or its Python package (``"python"``).
            Default: the library, where the platform's wheels are Linux's.
        delivery
            How the model gets into the function. Default: by its size, see `ModelDelivery.auto`.
        """
        return CpuStrategy(
            memory_size=memory_size,
            timeout=timeout,
            capacity=capacity,
            engine=engine,
            delivery=delivery if delivery is not None else ModelDelivery.auto(),
        )

    @classmethod
    @renamed_props(patience="max_wait")
    def gpu(
        cls,
        *,
        backend: GpuBackend | None = None,
        max_wait: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Inference:
        """Run it on a GPU that is paid for only while there is something to do.

        While it is idle, no instance is paid for; a new network is, about 29 USD a month, see
        `InferenceNetwork`.

        Parameters
        ----------
        backend
            The backend that has the GPU. Default: a Lambda function on a new capacity provider.
        max_wait
            How long a batch may wait for the GPU. Default: 20 minutes.
        timeout
            The time limit of one run of a batch; the pipeline's own is that of its express workflow. Default: one
            minute.
        """
        from cdk_inference.gpu.inference import LambdaGpu, default_max_wait, default_timeout  # noqa: PLC0415 - for GPUs

        return GpuStrategy(
            backend=backend if backend is not None else LambdaGpu(),
            longest_wait=max_wait if max_wait is not None else default_max_wait(),
            timeout=timeout if timeout is not None else default_timeout(),
        )

    slow = SLOW
    patience = renamed_attribute("Inference.patience", "max_wait")

    @property
    def max_wait(self) -> Duration | None:
        """How long a batch may wait for the model; None if it always answers within an express workflow."""
        return None

    @abstractmethod
    def bind(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        confidence: bool = False,
        explanation: Explanation | None = None,
        **options: Unpack[FunctionOptions],
    ) -> IStage:
        """Make what runs the model.

        Parameters
        ----------
        model, work
            As those of `CpuInference`.
        timeout
            The time limit of one invocation, unless the strategy has another.
        confidence
            Whether the answer says how sure the model is of each item.
        explanation
            Which answers are explained, and how; None for none.
        **options
            As those of `StageFunction`.
        """


@dataclass(frozen=True, kw_only=True)
class CpuStrategy(Inference):
    """See `Inference.cpu`."""

    memory_size: int
    timeout: Duration | None
    capacity: CapacityStrategy | None
    engine: Engine | None
    delivery: ModelDelivery

    def bind(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,
        confidence: bool = False,
        explanation: Explanation | None = None,
        **options: Unpack[FunctionOptions],
    ) -> CpuInference:
        """Make the function."""
        return CpuInference(
            scope,
            id,
            model=model,
            work=work,
            confidence=confidence,
            explanation=explanation,
            memory_size=self.memory_size,
            timeout=self.timeout if self.timeout is not None else timeout,
            capacity=self.capacity,
            engine=self.engine,
            delivery=self.delivery,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class GpuStrategy(Inference):
    """See `Inference.gpu`."""

    backend: GpuBackend
    longest_wait: Duration
    timeout: Duration

    @property
    def max_wait(self) -> Duration:
        """How long a batch may wait: from zero, a GPU takes minutes to start."""
        return self.longest_wait

    def bind(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        timeout: Duration,  # noqa: ARG002 - it has its own
        confidence: bool = False,
        explanation: Explanation | None = None,
        **options: Unpack[FunctionOptions],
    ) -> GpuInference:
        """Make the function, or what else the backend has.

        The pipeline's platform is that of its zip files: a GPU's image is x86_64 whatever they are.
        """
        from cdk_inference.gpu.inference import GpuInference  # noqa: PLC0415 - for GPUs

        if confidence:
            raise PropError(
                "inference of a model that decides what is escalated must be on a CPU, got a GPU; use Inference.cpu() "
                "for it"
            )
        options.pop("platform", None)
        return GpuInference(
            scope,
            id,
            model=model,
            work=work,
            backend=self.backend,
            max_wait=self.max_wait,
            timeout=self.timeout,
            explanation=explanation,
            **options,
        )
