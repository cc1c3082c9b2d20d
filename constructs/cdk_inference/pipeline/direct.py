"""The direct pipeline: one function takes messages from a queue, without a pipe and a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from aws_cdk import Duration, Size
from aws_cdk import aws_logs as logs

from cdk_inference.common.environments import check_environment
from cdk_inference.common.props.durations import seconds
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_between
from cdk_inference.pipeline.combinations import OWN, check_suffixes, check_trigger, plan_of
from cdk_inference.pipeline.execution_strategy import PipelineParts
from cdk_inference.pipeline.fused import FusedExecution, FusedStages
from cdk_inference.pipeline.operated import OperatedPipeline
from cdk_inference.pipeline.pipeline import TriggerT
from cdk_inference.routing.inference import Inference
from cdk_inference.routing.route_costs import record_costs
from cdk_inference.stages.fused import DIRECT_HANDLER
from cdk_inference.stages.postprocess import Postprocess
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.results import ResultsTable
from cdk_inference.triggers.s3 import MAX_RECEIVE_COUNT
from cdk_inference.triggers.s3_notifications import BATCH_SIZE, S3NotificationTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_kms as kms
    from constructs import Construct

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.explanations.explain import Explain
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.routing.inference import CpuStrategy
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.storage.results import IResultsTable

_TIMEOUT_SECONDS = 60
_MOST_CONCURRENT = 1000


@check_props
class DirectPipeline(OperatedPipeline, Generic[TriggerT]):
    """Scores every object that lands in a bucket, or every message, in the cheapest way.

    S3 → queue → function → DynamoDB. The bucket notifies the queue itself. Lambda hands the messages to one function,
    which preprocesses, runs the model and writes rows. You pay for no event bus, no pipe and no workflow.

    The promises are those of an `InferencePipeline`. Every object version ends as one row, or as one message in the
    dead-letter queue with the reason. Throttling and outages end nothing. A message that came back is scored in a
    separate process, which loads the model again, so that one which kills its process fails alone. Routing, releases
    and GPUs need an `InferencePipeline`.

    Parameters
    ----------
    model
        The model to run.
    preprocess
        How the bytes of an object become the model's input.
    postprocess
        How the model's outputs become a prediction. Default: the outputs are stored as they are.
    inference
        Memory, timeout, capacity, engine and delivery of the function. Default: `Inference.cpu`.
    explain
        When and how answers are explained, see `Explain`. Default: never.
    trigger
        A trigger to use, such as a `QueueTrigger`, or an `S3Trigger` for a bucket that exists. Default: a new
        `S3NotificationTrigger`.
    prefix, suffixes, batch_size, max_batching_window, max_receive_count
        Those of the new trigger; see `S3NotificationTrigger`.
    max_concurrency
        Most invocations at a time, 2 to 1,000. Default: as many as Lambda finds right. Prefer this to
        `reserved_concurrent_executions`, which would only throttle.
    results
        A table to share with other pipelines. Default: a new table.
    encryption_key
        Customer managed key of all that is new. Default: a new one.
    timeout
        The longest time of an invocation, unless `inference` has one. Default: one minute.
    max_object_size
        Larger objects are rejected before they are read. Default: 64 MiB.
    reserved_concurrent_executions
        As that of CDK's functions. Default: no reservation.
    result_ttl
        The time after which DynamoDB deletes a row. Default: rows stay.
    platform
        Architecture and Python version of the function. Default: `LambdaPlatform`'s.
    vpc, vpc_subnets, security_groups
        As those of `InferencePipeline`.
    log_retention
        The retention of the function's log group. Default: one month.
    removal_policy
        The policy of what has data. Default: RETAIN, see `data_removal_policy`.

    Attributes
    ----------
    trigger, results
        The parts.
    stages
        `stages.score` is the function.
    mapping
        The event source mapping.

    Raises
    ------
    PropError
        A prop is out of range, or two do not go together.
    """

    is_pipeline = True

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        preprocess: Preprocess,
        postprocess: Postprocess | None = None,
        inference: CpuStrategy | None = None,
        explain: Explain | None = None,
        trigger: TriggerT | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
        max_batching_window: Duration | None = None,
        max_receive_count: int = MAX_RECEIVE_COUNT,
        max_concurrency: int | None = None,
        results: IResultsTable | None = None,
        encryption_key: kms.IKey | None = None,
        timeout: Duration | None = None,
        max_object_size: Size | None = None,
        reserved_concurrent_executions: int | None = None,
        result_ttl: Duration | None = None,
        platform: LambdaPlatform | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._plan, _ = plan_of(None, model, preprocess, inference or Inference.cpu(), None, platform, explain)
        self._routed = False
        self.release = None
        self.drift_monitors: list[DriftMonitor] = []
        check_trigger(
            trigger, None, prefix, suffixes, batch_size, max_batching_window, max_receive_count, usual_batch=BATCH_SIZE
        )
        if max_concurrency is not None:
            check_between(2, _MOST_CONCURRENT, max_concurrency=max_concurrency)
        limit = timeout if timeout is not None else Duration.seconds(_TIMEOUT_SECONDS)
        seconds("timeout", limit, least=1, most=900)
        longest = inference.timeout if inference is not None and inference.timeout is not None else limit
        check_suffixes(suffixes, preprocess)
        key = encryption.given_or_new(self, encryption_key, data_removal_policy(self, removal_policy))
        if results is not None:
            check_environment(self, "results", results.table, fix="use a table of that account and Region")
        encryption.allow_logs(key, self)
        self.trigger: TriggerT = (
            trigger
            if trigger is not None
            else S3NotificationTrigger(  # type: ignore[assignment]
                self,
                "Trigger",
                prefix=prefix,
                suffixes=suffixes,
                encryption_key=key,
                batch_size=batch_size,
                max_batching_window=max_batching_window,
                max_receive_count=max_receive_count,
                processing_timeout=longest,
                removal_policy=removal_policy,
            )
        )
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
            "vpc": vpc,
            "vpc_subnets": vpc_subnets,
            "security_groups": security_groups,
        }
        self._parts = PipelineParts(
            trigger=self.trigger,
            results=self.results,
            postprocess=postprocess if postprocess is not None else Postprocess.outputs(),
            max_object_size=max_object_size,
            result_ttl=result_ttl,
            timeout=limit,
            capacity=None,
            functions=options,
            workflows={"encryption_key": key, "log_retention": log_retention, "log_removal_policy": removal_policy},
        )
        self._execution: FusedExecution = FusedExecution(handler=DIRECT_HANDLER)
        self.routes: dict[str, FusedStages] = self._execution.bind(self, self._plan, {OWN: self}, self._parts)
        self.trigger.follow(self.results, self._row_versions)
        self.mapping = self.trigger.add_function(self.stages.score, max_concurrency=max_concurrency)
        record_costs(self, self._plan, self.trigger.batch_size, items_are=self.trigger.items_are)

    @property
    def stages(self) -> FusedStages:
        """The function."""
        return self.routes[OWN]
