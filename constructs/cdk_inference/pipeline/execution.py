"""Which functions run the stages of a route: one factory for each kind of execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.pipeline.staged import StagedExecution

if TYPE_CHECKING:
    from cdk_inference.pipeline.fused import FusedExecution
    from cdk_inference.storage.work_bucket import IWorkBucket


@check_props
class Execution:
    """Which functions run the stages of a route: one for each stage, or one for all of them."""

    @classmethod
    def staged(
        cls,
        *,
        preprocess_memory_size: int = 1769,
        postprocess_memory_size: int = 1024,
        work: IWorkBucket | None = None,
    ) -> StagedExecution:
        """Run each stage in a separate function; `InferencePipeline.stages` is a `SeparateStages`.

        Each stage has only the permissions, the memory and the packages that it needs, inference may run on a GPU, and
        cascades work. Tensors travel between the functions, through a work bucket if they are large.

        Parameters
        ----------
        preprocess_memory_size
            MiB of the preprocessing function; 1,769 MiB are one vCPU. Default: 1,769.
        postprocess_memory_size
            MiB of the postprocessing function. Default: 1,024.
        work
            A work bucket to share. Default: a new one.
        """
        return StagedExecution(
            preprocess_memory_size=preprocess_memory_size,
            postprocess_memory_size=postprocess_memory_size,
            work=work,
        )

    @classmethod
    def fused(cls, *, work: IWorkBucket | None = None) -> FusedExecution:
        """Run all stages of a route in one function; `InferencePipeline.stages` is a `FusedStages`.

        This means one cold start, one invocation for each batch, and no tensors that travel. It works on the CPU and
        without cascades. Memory, timeout, engine and delivery are those of the route's `Inference.cpu`.

        Parameters
        ----------
        work
            A work bucket for masks, if postprocessing makes any. Default: a new one for each route.
        """
        from cdk_inference.pipeline.fused import FusedExecution  # noqa: PLC0415 - only for those who ask

        return FusedExecution(work=work)
