"""Reusable AWS CDK constructs for event-driven ML inference.

The names are imported on first use: the model build and the local target live in this package too, and must not wait
seconds for aws-cdk-lib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.capacity import Capacity
    from cdk_inference.errors import InferenceError, ModelBuildError, PropError
    from cdk_inference.functions import CpuInference, PostprocessFunction, PreprocessFunction, StageFunction
    from cdk_inference.gpu import GpuInference, LambdaGpu
    from cdk_inference.gpu_workflow import GpuWorkflow
    from cdk_inference.inference import Inference
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.pipeline import InferencePipeline
    from cdk_inference.platform import LambdaPlatform
    from cdk_inference.results import ResultsTable
    from cdk_inference.router import Router
    from cdk_inference.routes import Route
    from cdk_inference.routing import Routing
    from cdk_inference.stages import Postprocess, Preprocess
    from cdk_inference.trigger import S3Trigger
    from cdk_inference.work import WorkBucket
    from cdk_inference.workflow import InferenceWorkflow, Leg

_MODULES = {
    "Capacity": "capacity",
    "CpuInference": "functions",
    "GpuInference": "gpu",
    "GpuWorkflow": "gpu_workflow",
    "Inference": "inference",
    "InferenceError": "errors",
    "InferencePipeline": "pipeline",
    "InferenceWorkflow": "workflow",
    "LambdaGpu": "gpu",
    "LambdaPlatform": "platform",
    "Leg": "workflow",
    "ModelArtifact": "model.artifact",
    "ModelBuildError": "errors",
    "Postprocess": "stages",
    "PostprocessFunction": "functions",
    "Preprocess": "stages",
    "PreprocessFunction": "functions",
    "PropError": "errors",
    "ResultsTable": "results",
    "Route": "routes",
    "Router": "router",
    "Routing": "routing",
    "S3Trigger": "trigger",
    "StageFunction": "functions",
    "WorkBucket": "work",
}

__all__ = [
    "Capacity",
    "CpuInference",
    "GpuInference",
    "GpuWorkflow",
    "Inference",
    "InferenceError",
    "InferencePipeline",
    "InferenceWorkflow",
    "LambdaGpu",
    "LambdaPlatform",
    "Leg",
    "ModelArtifact",
    "ModelBuildError",
    "Postprocess",
    "PostprocessFunction",
    "Preprocess",
    "PreprocessFunction",
    "PropError",
    "ResultsTable",
    "Route",
    "Router",
    "Routing",
    "S3Trigger",
    "StageFunction",
    "WorkBucket",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
