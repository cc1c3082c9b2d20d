"""The pipeline: wires the trigger, the three stages, the workflow and the results together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from aws_cdk import Duration, Token
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference import encryption
from cdk_inference.durations import seconds
from cdk_inference.errors import PropError
from cdk_inference.functions import CpuInference, FunctionOptions, PostprocessFunction, PreprocessFunction
from cdk_inference.model.artifact import ModelArtifact
from cdk_inference.removal import data_removal_policy
from cdk_inference.results import ResultsTable
from cdk_inference.stages import Postprocess
from cdk_inference.trigger import S3Trigger
from cdk_inference.work import WorkBucket
from cdk_inference.workflow import InferenceWorkflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3

    from cdk_inference.platform import LambdaPlatform
    from cdk_inference.stages import Preprocess

METRIC_NAMESPACE = "cdk-inference"
_EXPRESS_LIMIT_SECONDS = 300


class InferencePipeline(Construct):
    """Scores every object that lands in a bucket, and keeps the result in a table.

    S3 → EventBridge → queue → pipe → workflow (preprocess → infer → postprocess) → DynamoDB. Every object version ends
    as exactly one row, or as one message in the dead-letter queue.

    Parameters
    ----------
    model
        The model to run.
    preprocess
        How the bytes of an object become the model's input.
    postprocess
        How the model's outputs become a prediction. Default: the outputs are stored as they are.
    bucket
        Where objects land. An imported bucket must have EventBridge notifications enabled. Default: a bucket of our
        own, versioned, encrypted, TLS only, without public access.
    prefix
        Only keys that start with it. Default: all keys.
    suffixes
        Only keys that end with one of them, in lower or upper case. Default: all keys; what the preprocessing cannot
        read is rejected with a row that says so.
    results
        A table to share with other pipelines. Default: a table of our own.
    encryption_key
        Customer managed key of all data, logs included. Default: a key of our own, which rotates.
    batch_size
        Most objects the workflow gets at once, 1 to 32. Default: 32.
    batch_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds. Default: 1 second.
    max_receive_count
        Times an object is tried before it goes to the dead-letter queue; outages and throttling count. Default: 10.
    stage_timeout
        Of one invocation of each function. Finding the item that times out takes log2(batch_size) + 3 invocations, and
        all must fit into the 5 minutes of an express workflow. Default: 30 seconds.
    workflow_timeout
        Of one batch; a message that failed is tried again about this much later. Default: 5 minutes.
    preprocess_memory_size, inference_memory_size, postprocess_memory_size
        MiB of the functions; 1,769 MiB are one vCPU. Default: 1,769, 1,769 and 1,024.
    max_object_bytes
        Larger objects are rejected before they are read. Default: 64 MiB.
    reserved_concurrent_executions
        Concurrency that is kept for each of the three functions, and its limit. Default: none.
    result_ttl_days
        Days after which DynamoDB deletes a row. Default: rows stay.
    platform
        Python version and architecture of the functions. Default: the newest Python of Lambda, on arm64.
    log_retention
        Default: one month.
    removal_policy
        Of the buckets, the table, the logs and the key. Default: RETAIN. DESTROY is honoured only with the context flag
        ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    trigger, preprocess, inference, postprocess, workflow, results, work
        The parts, each with grants and metrics of its own.

    Raises
    ------
    PropError
        A prop cannot work; the message names it, its value and the fix.
    """

    is_pipeline = True
    """Tells the parts, however deep they are, which pipeline they belong to."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        preprocess: Preprocess,
        postprocess: Postprocess | None = None,
        bucket: s3.IBucket | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        results: ResultsTable | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = 32,
        batch_window: Duration | None = None,
        max_receive_count: int = 10,
        stage_timeout: Duration | None = None,
        workflow_timeout: Duration | None = None,
        preprocess_memory_size: int = 1769,
        inference_memory_size: int = 1769,
        postprocess_memory_size: int = 1024,
        max_object_bytes: int = 64 * 1024 * 1024,
        reserved_concurrent_executions: int | None = None,
        result_ttl_days: int | None = None,
        platform: LambdaPlatform | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        if not isinstance(model, ModelArtifact):
            raise PropError(f"model is a {type(model).__name__}; pass a ModelArtifact")
        per_stage = stage_timeout if stage_timeout is not None else Duration.seconds(30)
        per_batch = workflow_timeout if workflow_timeout is not None else Duration.seconds(_EXPRESS_LIMIT_SECONDS)
        _check_timeouts(batch_size, per_stage, per_batch)

        if encryption_key is None:
            key: kms.IKey = encryption.create_key(self, "Key", removal_policy=data_removal_policy(self, removal_policy))
        else:
            key = encryption_key
        encryption.allow_logs(key, self)

        self.trigger = S3Trigger(
            self,
            "Trigger",
            bucket=bucket,
            prefix=prefix,
            suffixes=suffixes,
            encryption_key=key,
            batch_size=batch_size,
            batch_window=batch_window,
            max_receive_count=max_receive_count,
            processing_timeout=per_batch,
            removal_policy=removal_policy,
        )
        _check_suffixes(suffixes, preprocess)
        self.work = WorkBucket(self, "Work", encryption_key=key, removal_policy=removal_policy)
        self.results = (
            results
            if results is not None
            else ResultsTable(self, "Results", encryption_key=key, removal_policy=removal_policy)
        )
        options: FunctionOptions = {
            "reserved_concurrent_executions": reserved_concurrent_executions,
            "platform": platform,
            "encryption_key": key,
            "log_retention": log_retention,
            "log_removal_policy": removal_policy,
        }
        self.preprocess = PreprocessFunction(
            self,
            "Preprocess",
            stage=preprocess,
            model=model,
            trigger=self.trigger,
            work=self.work,
            max_object_bytes=max_object_bytes,
            memory_size=preprocess_memory_size,
            timeout=per_stage,
            **options,
        )
        self.inference = CpuInference(
            self,
            "Inference",
            model=model,
            work=self.work,
            memory_size=inference_memory_size,
            timeout=per_stage,
            **options,
        )
        self.postprocess = PostprocessFunction(
            self,
            "Postprocess",
            stage=postprocess if postprocess is not None else Postprocess.outputs(),
            model=model,
            work=self.work,
            results=self.results,
            result_ttl_days=result_ttl_days,
            memory_size=postprocess_memory_size,
            timeout=per_stage,
            **options,
        )
        self.workflow = InferenceWorkflow(
            self,
            "Workflow",
            preprocess=self.preprocess,
            inference=self.inference,
            postprocess=self.postprocess,
            timeout=per_batch,
            encryption_key=key,
            log_retention=log_retention,
            log_removal_policy=removal_policy,
        )
        self.trigger.add_target(self.workflow.state_machine)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects into the inbox."""
        return self.trigger.grant_put(grantee)

    def metric(self, name: str, **options: Any) -> cloudwatch.Metric:
        """Return a metric that the postprocessing function records for this pipeline, as a sum over 5 minutes."""
        return cloudwatch.Metric(
            **{
                "namespace": METRIC_NAMESPACE,
                "metric_name": name,
                "dimensions_map": {"pipeline": self.node.path},
                "statistic": cloudwatch.Stats.SUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def metric_succeeded(self, **options: Any) -> cloudwatch.Metric:
        """Count the objects that got a prediction, as a sum over 5 minutes."""
        return self.metric("Succeeded", **options)

    def metric_rejected(self, **options: Any) -> cloudwatch.Metric:
        """Count the objects that were refused for what they contain, as a sum over 5 minutes."""
        return self.metric("Rejected", **options)

    def metric_failed(self, **options: Any) -> cloudwatch.Metric:
        """Count the objects for which no valid result came out, as a sum over 5 minutes."""
        return self.metric("Failed", **options)

    def metric_retried(self, **options: Any) -> cloudwatch.Metric:
        """Count the objects that postprocessing gave back to the queue, as a sum over 5 minutes."""
        return self.metric("Retried", **options)

    def metric_latency(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds from an object's event to its row, the 95th percentile over 5 minutes."""
        return self.metric("Latency", **{"statistic": cloudwatch.Stats.p(95), **options})

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the events that EventBridge was not able to deliver to the queue, the maximum over 5 minutes."""
        return self.trigger.metric_undelivered(**options)

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages in the dead-letter queue, the maximum over 5 minutes."""
        return self.trigger.metric_dead_letters(**options)


def _check_suffixes(suffixes: Sequence[str], preprocess: Preprocess) -> None:
    for suffix in suffixes:
        if preprocess.suffixes is not None and suffix.lower() not in preprocess.suffixes:
            raise PropError(
                f"suffixes has '{suffix}', which the preprocessing cannot read; "
                f"it reads {', '.join(preprocess.suffixes)}"
            )


def _check_timeouts(batch_size: int, stage_timeout: Duration, workflow_timeout: Duration) -> None:
    workflow = seconds("workflow_timeout", workflow_timeout, least=1, most=_EXPRESS_LIMIT_SECONDS)
    stage = seconds("stage_timeout", stage_timeout, least=1, most=_EXPRESS_LIMIT_SECONDS)
    if workflow is None or stage is None or Token.is_unresolved(batch_size):
        return
    rounds = math.ceil(math.log2(max(batch_size, 1))) + 1
    invocations = rounds + 2  # after the first stage, the last part still has two to go
    if invocations * stage > workflow:
        raise PropError(
            f"stage_timeout is {stage} s: finding the one object that times out in a batch of {batch_size} takes "
            f"{invocations} invocations, which do not fit into the workflow's {workflow} s; "
            f"use at most {workflow // invocations} s, or smaller batches"
        )
