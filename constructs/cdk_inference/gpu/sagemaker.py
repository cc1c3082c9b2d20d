"""A GPU for regions and accounts without GPUs in Lambda: SageMaker's asynchronous inference."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aws_cdk import Token

from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least, check_between
from cdk_inference.errors import PropError
from cdk_inference.gpu.inference import GpuBackend

if TYPE_CHECKING:
    from aws_cdk import Duration
    from constructs import Construct

    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.interfaces import IInvocable
    from cdk_inference.storage.work_bucket import IWorkBucket

_GPU_FAMILY = re.compile(r"(?:g|gr|p)\d+[a-z]*(?:-[a-z0-9]+)?")
_OLD_FAMILY = re.compile(r"g[23]s?|p[23](?:dn)?")  # CUDA 13, which the image has, begins with Turing: g4dn
_ARM_FAMILY = re.compile(r"g\d+g|.*-gb\d+")
_LONGEST_RUN = 3600
_MAX_CONCURRENCY = 1000


@check_props
@dataclass(frozen=True, kw_only=True)
class SageMakerAsync(GpuBackend):
    """Instances of a SageMaker endpoint, which go when there is nothing to do and come back when there is.

    SageMaker queues the requests itself while it starts an instance, so that nothing is refused meanwhile.

    Parameters
    ----------
    instance_type
        With an NVIDIA GPU and x86_64. Default: ``"ml.g5.xlarge"``, whose GPU has 24 GiB.
    max_instances
        Most instances at once; the fewest are none. Default: 1.
    concurrency
        Requests that an instance works on at once. Default: 2, so that one is read while another one is on the GPU.

    Raises
    ------
    PropError
        A prop is out of range, or the instance type has no NVIDIA GPU that runs the image.
    """

    instance_type: str = "ml.g5.xlarge"
    max_instances: int = 1
    concurrency: int = 2

    def __post_init__(self) -> None:
        _check_instance_type(self.instance_type)
        check_at_least(1, max_instances=self.max_instances)
        check_between(1, _MAX_CONCURRENCY, concurrency=self.concurrency)

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
        """Make the endpoint, its scaling, and the functions that ask it and hand back its answers."""
        # Not at the top: they load parts of CDK that no other app needs.
        from cdk_inference.gpu.image import gpu_image  # noqa: PLC0415
        from cdk_inference.gpu.sagemaker_endpoint import AsyncEndpoint  # noqa: PLC0415
        from cdk_inference.gpu.sagemaker_stage import AsyncStage  # noqa: PLC0415

        seconds("timeout", timeout, least=1, most=_LONGEST_RUN)
        key = options.get("encryption_key")
        endpoint = AsyncEndpoint(
            scope,
            "Endpoint",
            model=model,
            work=work,
            image=gpu_image(scope, "Image", model=model, target="sagemaker", explanation=explanation),
            instance_type=self.instance_type,
            max_instances=self.max_instances,
            concurrency=self.concurrency,
            timeout=timeout,
            explanation=explanation,
            encryption_key=key,
            log_retention=options.get("log_retention"),
            log_removal_policy=options.get("log_removal_policy"),
            vpc=options.get("vpc"),
            vpc_subnets=options.get("vpc_subnets"),
            security_groups=options.get("security_groups"),
        )
        return AsyncStage(
            scope,
            "Requests",
            endpoint=endpoint,
            work=work,
            timeout=timeout,
            max_wait=max_wait,
            options=options,
        )


def _check_instance_type(instance_type: str) -> None:
    if Token.is_unresolved(instance_type):
        return
    match = re.fullmatch(r"ml\.([a-z0-9-]+)\.(?:\d*x)?large", instance_type)
    if match is None:
        raise PropError(f"instance_type must be like 'ml.g5.xlarge', got '{instance_type}'")
    if _ARM_FAMILY.fullmatch(match[1]):
        raise PropError(
            f"instance_type must be x86_64, as the image is, got '{instance_type}', which is arm64; use 'ml.g5.xlarge'"
        )
    if not _GPU_FAMILY.fullmatch(match[1]):
        raise PropError(
            f"instance_type must have an NVIDIA GPU, got '{instance_type}'; use one like 'ml.g5.xlarge', or "
            "Inference.cpu()"
        )
    if _OLD_FAMILY.fullmatch(match[1]):
        raise PropError(
            f"instance_type must have a GPU that is new enough for CUDA 13, got '{instance_type}'; use one like "
            "'ml.g4dn.xlarge'"
        )
