"""The pipeline: wires the trigger, the stages, the workflow and the results together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Unpack

from aws_cdk import Annotations, CfnOutput, Duration, Size
from aws_cdk import aws_logs as logs
from constructs import Construct
from typing_extensions import TypeVar

from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.deprecations import renamed_attribute, renamed_props, warn_deprecated
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.combinations import (
    BATCH_SIZE,
    MAX_RECEIVE_COUNT,
    OWN,
    check_suffixes,
    check_trigger,
    plan_of,
)
from cdk_inference.pipeline.deprecated import chosen_execution
from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages
from cdk_inference.pipeline.operated import OperatedPipeline
from cdk_inference.pipeline.staged import SeparateStages
from cdk_inference.pipeline.timeouts import EXPRESS_LIMIT_SECONDS, check_timeouts
from cdk_inference.pipeline.workflow import InferenceWorkflow
from cdk_inference.routing.route_costs import cascade_costs, record_costs, warn_of_backlog
from cdk_inference.routing.router import Router
from cdk_inference.stages.postprocess import Postprocess
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.results import ResultsTable
from cdk_inference.triggers.base import IS3Trigger, ITrigger
from cdk_inference.triggers.s3 import S3Trigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3

    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.explanations.explain import Explain
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.pipeline.deprecated import OldProps
    from cdk_inference.pipeline.execution_strategy import ExecutionStrategy, WorkflowLogs
    from cdk_inference.releases.strategy import ReleaseStrategy
    from cdk_inference.routing.inference import Inference
    from cdk_inference.routing.plan import Branch
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.storage.results import IResultsTable


StagesT = TypeVar("StagesT", bound=RouteStages, default=SeparateStages)
TriggerT = TypeVar("TriggerT", bound=ITrigger, default=IS3Trigger)


@check_props
@renamed_props(
    batch_window="max_batching_window",
    max_object_bytes=("max_object_size", Size.bytes),
    result_ttl_days=("result_ttl", Duration.days),
)
class InferencePipeline(OperatedPipeline, Generic[StagesT, TriggerT]):
    """Scores every object that lands in a bucket, and keeps the result in a table.

    S3 → EventBridge → queue → pipe → workflow (preprocess → infer → postprocess) → DynamoDB. Every object version ends
    as one row, or as one message in the dead-letter queue; what a GPU could not score ends as both.

    With a `routing`, there are several models, and each item goes where it is cheapest to get right. With
    `Execution.fused`, one function does the work of three, with the same user code and the same rows.

    Parameters
    ----------
    model
        The model to run. Either this or `routing`.
    preprocess
        How the bytes of an object become the model's input. Goes with `model`.
    postprocess
        How the model's outputs become a prediction; of routes that do not say otherwise too. Default: the outputs are
        stored as they are.
    inference
        Where the model runs. Goes with `model`. Default: `Inference.cpu`.
    explain
        When and how answers are explained, see `Explain`. Goes with `model`. Default: never.
    routing
        A strategy of `Routing`. Default: everything goes to `model`.
    release
        How a new model takes over: a strategy of `Release`. Default: with the deployment, all at once.
    execution
        Which functions run the stages of a route: `Execution.staged` or `Execution.fused`. Default: a function for each
        stage, `Execution.staged`.
    trigger
        A trigger to use, such as `S3Trigger.from_trigger_attributes`. It has the bucket, the keys and the size of
        batches. Default: a new one.
    bucket
        Where objects land. An imported bucket must have EventBridge notifications enabled. Default: a new
        bucket, versioned, encrypted, TLS only, without public access.
    prefix
        Only keys that start with it. Default: all keys.
    suffixes
        Only keys that end with one of them, in lower or upper case. Default: all keys; what the preprocessing cannot
        read is rejected with a row that says so.
    results
        A table to share with other pipelines. Default: a new table.
    encryption_key
        Customer managed key of all data, logs included. Default: a new key, which rotates.
    batch_size
        Most objects the workflow gets at once, 1 to 32. Default: 32.
    max_batching_window
        Longest time to wait for a batch to fill up, 0 to 300 seconds. Default: 1 second.
    max_receive_count
        Times an object that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. Throttled
        objects are given back for as long as necessary. Default: 10.
    stage_timeout
        The time limit of one invocation of each function. Finding the items that time out takes 5 invocations, one
        after the other, of both models of a cascade. All must fit into the 5 minutes of an express workflow. With
        `Execution.fused` it takes 3. Default: 30 seconds, 18 with a cascade, or 40 with `Execution.fused`.
    workflow_timeout
        The time limit of one batch; a message that failed is tried again about this much later. Default: 5 minutes.
    capacity
        Where environments of preprocessing and postprocessing come from; of a fused function, if its `inference` does
        not say so. Default: Lambda makes them on demand.
    max_object_size
        Larger objects are rejected before they are read. Default: 64 MiB.
    reserved_concurrent_executions
        Concurrency that is kept for each function, and its limit. Default: none.
    result_ttl
        The time after which DynamoDB deletes a row. Default: rows stay.
    platform
        Python version and architecture of the functions. Default: the newest Python of Lambda, on arm64.
    vpc
        The VPC that all functions, instances and models are in; the page on security lists the endpoints that they need
        there. Default: functions are in none, and instances share a new `InferenceNetwork`.
    vpc_subnets
        Subnets of the VPC. Default: its private subnets, or its isolated ones if it has no others.
    security_groups
        Security groups of all functions, instances and models. Default: each has a new group, which lets nothing in
        and HTTPS out.
    log_retention
        The retention of all log groups: those of functions, workflow and pipe. Default: one month.
    removal_policy
        The policy of the buckets, the table, the logs and the key. Default: RETAIN. DESTROY is honoured only with the
        context flag ``cdk-inference:allow-destroy=true``.
    **old
        Deprecated props: `fused`, `preprocess_memory_size`, `postprocess_memory_size` and `traffic`.

    Attributes
    ----------
    trigger, workflow, results
        The parts, each with its grants and metrics.
    routes
        The stages of each route, by its name: `SeparateStages` or `FusedStages`. Without a routing, the name is
        ``"main"``.
    drift_monitors
        Those of `add_drift_monitor`.
    edges
        Those of `add_edge`.
    release
        The table of a release, and its state machine: ``release.stepper.metric_failed()`` counts what was aborted.
        None without one.

    Raises
    ------
    PropError
        A prop cannot work; the message names it, its value and the fix.
    """

    is_pipeline = True  # so that parts, however deep they are, find the pipeline that they belong to

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact | None = None,
        preprocess: Preprocess | None = None,
        postprocess: Postprocess | None = None,
        inference: Inference | None = None,
        explain: Explain | None = None,
        routing: Branch | None = None,
        release: ReleaseStrategy | None = None,
        execution: ExecutionStrategy[StagesT] | None = None,
        trigger: TriggerT | None = None,
        bucket: s3.IBucket | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        results: IResultsTable | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = BATCH_SIZE,
        max_batching_window: Duration | None = None,
        max_receive_count: int = MAX_RECEIVE_COUNT,
        stage_timeout: Duration | None = None,
        workflow_timeout: Duration | None = None,
        capacity: CapacityStrategy | None = None,
        max_object_size: Size | None = None,
        reserved_concurrent_executions: int | None = None,
        result_ttl: Duration | None = None,
        platform: LambdaPlatform | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
        **old: Unpack[OldProps],
    ) -> None:
        super().__init__(scope, id)
        plan, arms = plan_of(release, model, preprocess, inference, routing, platform, explain)
        routed = routing is not None or arms is not None
        self._plan, self._routed, self._capacity = plan, routed, capacity
        self.drift_monitors: list[DriftMonitor] = []
        self._execution: ExecutionStrategy[StagesT] = chosen_execution(execution, old)
        self._execution.check(plan, capacity)
        models = 2 if any(planned.escalation for planned in plan.planned.values()) else 1
        default_timeout = Duration.seconds(self._execution.default_timeout(models))
        per_stage = stage_timeout if stage_timeout is not None else default_timeout
        per_batch = workflow_timeout if workflow_timeout is not None else Duration.seconds(EXPRESS_LIMIT_SECONDS)
        check_trigger(trigger, bucket, prefix, suffixes, batch_size, max_batching_window, max_receive_count)
        batch_size = trigger.batch_size if trigger is not None else batch_size
        check_timeouts(batch_size, per_stage, per_batch, plan, functions_in_turn=self._execution.functions_in_turn)

        key = encryption.given_or_new(self, encryption_key, data_removal_policy(self, removal_policy))
        if results is not None:
            check_environment(self, "results", results.table, fix="use a table of that account and Region")
        encryption.allow_logs(key, self)

        self.trigger: TriggerT = (
            trigger
            if trigger is not None
            else S3Trigger(  # type: ignore[assignment]
                self,
                "Trigger",
                bucket=bucket,
                prefix=prefix,
                suffixes=suffixes,
                encryption_key=key,
                batch_size=batch_size,
                max_batching_window=max_batching_window,
                max_receive_count=max_receive_count,
                processing_timeout=per_batch,
                log_retention=log_retention,
                removal_policy=removal_policy,
            )
        )
        for route in plan.routes.values():
            check_suffixes(suffixes, route.preprocess)
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
        kept: WorkflowLogs = {
            "encryption_key": key,
            "log_retention": log_retention,
            "log_removal_policy": removal_policy,
        }
        self.release = (
            None
            if release is None or arms is None
            else release.bind(self, arms, kept, outputs_travel=self._execution.outputs_travel)
        )
        self._parts = parts = PipelineParts(
            trigger=self.trigger,
            results=self.results,
            postprocess=postprocess if postprocess is not None else Postprocess.outputs(),
            max_object_size=max_object_size,
            result_ttl=result_ttl,
            timeout=per_stage,
            capacity=capacity,
            functions=options,
            workflows=kept,
            release=self.release,
        )
        # The stages of the pipeline's own model are its own children, and a release leaves them where they are.
        parent = Construct(self, "Routes") if routed else self
        scopes = {name: self if name == OWN and routing is None else Construct(parent, name) for name in plan.routes}
        self.routes: dict[str, StagesT] = self._execution.bind(self, plan, scopes, parts)
        if release is not None and self.release is not None:
            release.watch(self.release, self.routes, parts)
        self.workflow: InferenceWorkflow = InferenceWorkflow(
            self,
            "Workflow",
            routes=[
                self.routes[planned.route.name].workflow_route(planned, routed=routed)
                for planned in plan.planned.values()
            ],
            router=Router(self, "Router", plan=plan, trigger=self.trigger, **options) if routed else None,
            release=self.release,
            trigger=self.trigger,
            timeout=per_batch,
            **kept,
        )
        self.trigger.check_results(self.results)
        self.trigger.follow(self.results, self._row_versions)
        self.trigger.add_target(self.workflow.state_machine, encryption_key=key)
        self._report()
        if "traffic" in old:
            warn_deprecated("InferencePipeline(traffic=…)", "pipeline.advise(traffic)")
            if old["traffic"] is not None:
                self.advise(old["traffic"])

    @property
    def stages(self) -> StagesT:
        """The stages of a pipeline with one route; with several routes, take those of `routes`."""
        if len(self.routes) > 1:
            names = ", ".join(self.routes)
            raise PropError(
                f"stages must be those of one route, got {names}; take .routes['{next(iter(self.routes))}']"
            )
        return next(iter(self.routes.values()))

    preprocess = renamed_attribute("InferencePipeline.preprocess", "stages.preprocess")
    inference = renamed_attribute("InferencePipeline.inference", "stages.inference")
    postprocess = renamed_attribute("InferencePipeline.postprocess", "stages.postprocess")
    score = renamed_attribute("InferencePipeline.score", "stages.score")
    work = renamed_attribute("InferencePipeline.work", "stages.work")

    def _report(self) -> None:
        """Say what was calibrated and decided: in the template, in outputs, and as warnings."""
        plan, cascades, summaries = self._plan, [], []
        for planned in plan.planned.values():
            calibration = None if planned.escalation is None else planned.escalation.calibration
            if planned.escalation is None or calibration is None:
                continue
            then = plan.routes[plan.destinations[planned.escalation.then].planned]
            costs = cascade_costs(planned.route, then, calibration, plan.platform)
            cascades.append(calibration.manifest(cost_per_million=costs))
            summaries.append(calibration.summary)
            if calibration.warning:
                Annotations.of(self).add_warning_v2("cdk-inference:cascade", calibration.warning)
        if cascades:
            add_metadata(self.workflow.state_machine, "state-machine", cascades=cascades)
            CfnOutput(self, "Cascades", value="; ".join(summaries), description="which model's answer counts, and why")
        if plan.decisions:
            decisions = "\n\n".join(plan.decisions)
            CfnOutput(self, "Decision", value=decisions, description="why items go where they go")
            Annotations.of(self).add_info_v2("cdk-inference:decision", decisions)
        fused = not self._execution.outputs_travel
        record_costs(self, plan, self.trigger.batch_size, items_are=self.trigger.items_are, fused=fused)

    def advise(self, traffic: Traffic) -> None:
        """Warn at synth if the pipeline does not fit the traffic that you expect.

        The warnings say when capacity that is always on would be cheaper, and when a GPU would not be done with a burst
        in time. Without warnings, nothing better is known.

        Parameters
        ----------
        traffic
            How many objects come, and when.

        Raises
        ------
        PropError
            The latency of the model is not known, see `Route`.
        """
        if self._plan.entry:  # all items begin there
            route = self._plan.planned[self._plan.destinations[self._plan.entry].planned].route
            self._execution.advise_capacity(self, route, traffic, self._capacity, self._plan.platform)
            warn_of_backlog(self, route, traffic)
