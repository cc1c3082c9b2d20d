"""The inference function on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from aws_cdk import Duration

from cdk_inference.bundling.delivery import ModelDelivery, ModelPackage
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.costs.memory import warn_of_memory
from cdk_inference.stages.base import FunctionOptions, StageFunction, add_model_metadata, grant_work

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_inference.bundling.packages import Engine
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import BuiltModel
    from cdk_inference.storage.work_bucket import IWorkBucket

INFERENCE_HANDLER = "inference_runtime.handlers.infer.handler"


@check_props
class CpuInference(StageFunction):
    """Runs the model on a batch of tensors, on the CPU.

    Parameters
    ----------
    model
        The artifact.
    work
        Where large tensors are read and written.
    confidence
        Whether the answer says how sure the model is of each item, for a cascade.
    explanation
        Which answers are explained, and how. Default: none.
    memory_size
        Default: 1,769 MiB, one vCPU.
    timeout
        Default: 30 seconds.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    engine
        The engine: ONNX Runtime's shared library (``"c_api"``), or its Python package (``"python"``). Default:
        the library, where the platform's wheels are Linux's.
    delivery
        How the model gets into the function. Default: by its size, see `ModelDelivery.auto`.
    **options
        As those of `StageFunction`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        work: IWorkBucket,
        confidence: bool = False,
        explanation: Explanation | None = None,
        memory_size: int = 1769,
        timeout: Duration | None = None,
        capacity: CapacityStrategy | None = None,
        engine: Engine | None = None,
        delivery: ModelDelivery | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(
            scope,
            id,
            package=ModelPackage(
                package=ZipPackage(
                    handler=INFERENCE_HANDLER, sources={} if explanation is None else dict(explanation.files)
                ),
                model=model,
                memory_size=memory_size,
                engine=engine,
                delivery=delivery if delivery is not None else ModelDelivery.auto(),
            ),
            description=f"runs {model.manifest.name}",
            environment={
                **inference_environment(model, work, confidence=confidence),
                **({} if explanation is None else explanation.engine_environment),
            },
            memory_size=memory_size,
            timeout=timeout if timeout is not None else Duration.seconds(30),
            capacity=capacity if capacity is not None else ON_DEMAND,
            **options,
        )
        self.model_version = model.version
        add_model_metadata(self, model)
        grant_work(self, work)
        warn_of_memory(self, model, memory_size)
        if explanation is not None:
            explanation.record(self)


def inference_environment(model: ModelArtifact, work: IWorkBucket, *, confidence: bool = False) -> dict[str, str]:
    """Return the variables of the handler that runs a model, on whatever it runs."""
    return {**engine_environment(model, confidence=confidence), "WORK_BUCKET": work.bucket.bucket_name}


def engine_environment(model: ModelArtifact | BuiltModel, *, confidence: bool = False) -> dict[str, str]:
    """Return the variables by which a handler runs a model."""
    return {
        "MODEL_VERSION": model.version,
        # So that the same object gives the same row, whatever arrives with it.
        **({"MAX_BATCH": "1"} if model.manifest.batch_dependent else {}),
        **({"CONFIDENCE": "1"} if confidence else {}),
    }
