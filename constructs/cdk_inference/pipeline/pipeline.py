"""The pipeline: wires the trigger, the three stages, the workflow and the results together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Annotations, CfnOutput, Duration, Token
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_inference.common.durations import seconds
from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import mark, metrics_name
from cdk_inference.common.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.route_stages import FusedStages, RouteStages
from cdk_inference.pipeline.workflow import PARTS, InferenceWorkflow
from cdk_inference.routing.inference import CpuStrategy, Inference
from cdk_inference.routing.route import Route
from cdk_inference.routing.router import Router
from cdk_inference.routing.strategies import RoutePlan
from cdk_inference.stages.postprocess import Postprocess
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.results import ResultsTable
from cdk_inference.storage.work_bucket import WorkBucket
from cdk_inference.triggers.s3 import S3Trigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3

    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.gpu.inference import GpuInference
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.pipeline.route_stages import RouteOptions, WorkflowLogs
    from cdk_inference.routing.strategies import Branch
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.fused import FusedFunction
    from cdk_inference.stages.inference import CpuInference
    from cdk_inference.stages.postprocess import PostprocessFunction
    from cdk_inference.stages.preprocess import Preprocess, PreprocessFunction

METRIC_NAMESPACE = "cdk-inference"
_EXPRESS_LIMIT_SECONDS = 300
_STAGE_TIMEOUTS = {1: 30, 2: 18}
_FUSED_TIMEOUT = 40
_STAGE_MEMORY = {"preprocess_memory_size": 1769, "postprocess_memory_size": 1024}


@check_props
class InferencePipeline(Construct):
    """Scores every object that lands in a bucket, and keeps the result in a table.

    S3 → EventBridge → queue → pipe → workflow (preprocess → infer → postprocess) → DynamoDB. Every object version ends
    as one row, or as one message in the dead-letter queue; what a GPU could not score ends as both.

    With a `routing`, there are several models, and each item goes where it is cheapest to get right. When `fused`, one
    function does what three do else, with the same user code and the same rows.

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
    routing
        A strategy of `Routing`. Default: everything goes to `model`.
    fused
        Whether preprocessing, inference and postprocessing of a route are one function: one cold start, one invocation
        a batch, no tensors on their way. On the CPU, and without cascades. Default: a function for each.
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
        Times an object that fails by itself is delivered before it goes to the dead-letter queue, 1 to 1,000. What is
        throttled is given back for as long as need be. Default: 10.
    stage_timeout
        Of one invocation of each function. Finding the items that time out takes 5 invocations, one after the other,
        of both models of a cascade. All must fit into the 5 minutes of an express workflow. When `fused`, it takes 3.
        Default: 30 seconds, 18 with a cascade, or 40 when `fused`.
    workflow_timeout
        Of one batch; a message that failed is tried again about this much later. Default: 5 minutes.
    preprocess_memory_size, postprocess_memory_size
        MiB of the functions; 1,769 MiB are one vCPU. A fused function has that of its `inference`. Default: 1,769 and
        1,024.
    capacity
        Where environments of preprocessing and postprocessing come from; of a fused function, if its `inference` does
        not say so. Default: Lambda makes them on demand.
    max_object_bytes
        Larger objects are rejected before they are read. Default: 64 MiB.
    reserved_concurrent_executions
        Concurrency that is kept for each function, and its limit. Default: none.
    traffic
        What is expected; with it, warnings say when capacity that is always on would be cheaper, and when a GPU would
        not be done with a burst in time. Default: unknown.
    result_ttl_days
        Days after which DynamoDB deletes a row. Default: rows stay.
    platform
        Python version and architecture of the functions. Default: the newest Python of Lambda, on arm64.
    vpc
        The VPC that all functions, instances and models are in; the page on security lists the endpoints that they need
        there. Default: functions are in none, and instances share a new `InferenceNetwork`.
    vpc_subnets
        Subnets of the VPC. Default: its private subnets, or its isolated ones if it has no others.
    security_groups
        Of all functions, instances and models. Default: each has a group of its own, which lets nothing in and HTTPS
        out.
    log_retention
        Default: one month.
    removal_policy
        Of the buckets, the table, the logs and the key. Default: RETAIN. DESTROY is honoured only with the context flag
        ``cdk-inference:allow-destroy=true``.

    Attributes
    ----------
    trigger, workflow, results
        The parts, each with grants and metrics of its own.
    routes
        The stages of each route, by its name; without a routing, those of ``"main"``.

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
        model: ModelArtifact | None = None,
        preprocess: Preprocess | None = None,
        postprocess: Postprocess | None = None,
        inference: Inference | None = None,
        routing: Branch | None = None,
        fused: bool = False,
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
        preprocess_memory_size: int = _STAGE_MEMORY["preprocess_memory_size"],
        postprocess_memory_size: int = _STAGE_MEMORY["postprocess_memory_size"],
        capacity: CapacityStrategy | None = None,
        max_object_bytes: int = 64 * 1024 * 1024,
        reserved_concurrent_executions: int | None = None,
        traffic: Traffic | None = None,
        result_ttl_days: int | None = None,
        platform: LambdaPlatform | None = None,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
        removal_policy: RemovalPolicy | None = None,
    ) -> None:
        super().__init__(scope, id)
        plan = RoutePlan.of(_branch(model, preprocess, inference, routing))
        legs_in_turn = 2 if any(leg.escalation for leg in plan.legs.values()) else 1
        if fused:
            _check_fused(plan, preprocess_memory_size, postprocess_memory_size)
        elif capacity is not None:
            capacity.check_memory("preprocess_memory_size", preprocess_memory_size, "preprocessing")
            capacity.check_memory("postprocess_memory_size", postprocess_memory_size, "postprocessing")
        default_stage_timeout = Duration.seconds(_FUSED_TIMEOUT if fused else _STAGE_TIMEOUTS[legs_in_turn])
        per_stage = stage_timeout if stage_timeout is not None else default_stage_timeout
        per_batch = workflow_timeout if workflow_timeout is not None else Duration.seconds(_EXPRESS_LIMIT_SECONDS)
        _check_timeouts(batch_size, per_stage, per_batch, plan, fused=fused)

        if encryption_key is None:
            key: kms.IKey = encryption.create_key(self, "Key", removal_policy=data_removal_policy(self, removal_policy))
        else:
            key = encryption_key
            encryption.check_key(self, key)
        if results is not None:
            check_environment(self, "results", results.table, fix="use a table of that account and Region")
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
            log_retention=log_retention,
            removal_policy=removal_policy,
        )
        for route in plan.routes.values():
            _check_suffixes(suffixes, route.preprocess)
        self._work = None if fused else WorkBucket(self, "Work", encryption_key=key, removal_policy=removal_policy)
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
        # Without a routing the stages are the pipeline's own children.
        parent = self if routing is None else Construct(self, "Routes")
        self.routes: dict[str, RouteStages | FusedStages] = {}
        for name, route in plan.routes.items():
            within = parent if routing is None else Construct(parent, name)
            common: RouteOptions = {
                "trigger": self.trigger,
                "results": self.results,
                "postprocess": postprocess if postprocess is not None else Postprocess.outputs(),
                "max_object_bytes": max_object_bytes,
                "result_ttl_days": result_ttl_days,
                "timeout": per_stage,
                "capacity": capacity,
                "functions": options,
            }
            if self._work is None:
                self.routes[name] = FusedStages.create(within, route, **common)
                continue
            self.routes[name] = RouteStages.create(
                within,
                route,
                work=self._work,
                confidence=any(leg.escalation for leg in plan.legs.values() if leg.route is route),
                preprocess_memory_size=preprocess_memory_size,
                postprocess_memory_size=postprocess_memory_size,
                workflow=kept,
                **common,
            )
        self.workflow = InferenceWorkflow(
            self,
            "Workflow",
            legs=[self.routes[leg.route.name].leg(leg, routed=routing is not None) for leg in plan.legs.values()],
            router=None if routing is None else Router(self, "Router", plan=plan, trigger=self.trigger, **options),
            trigger=self.trigger,
            timeout=per_batch,
            **kept,
        )
        self.trigger.add_target(self.workflow.state_machine)
        self._report(plan, traffic, fused=fused, chosen=fused and capacity is not None)

    @property
    def preprocess(self) -> PreprocessFunction:
        """The preprocessing function of a pipeline with one route."""
        return self._only("preprocess").preprocess

    @property
    def inference(self) -> CpuInference | GpuInference:
        """The inference stage of a pipeline with one route."""
        return self._only("inference").inference

    @property
    def postprocess(self) -> PostprocessFunction:
        """The postprocessing function of a pipeline with one route."""
        return self._only("postprocess").postprocess

    @property
    def score(self) -> FusedFunction:
        """The function of a fused pipeline with one route."""
        return self._only("score").score

    @property
    def work(self) -> WorkBucket:
        """Where large tensors go; a fused pipeline has none."""
        if self._work is None:
            raise PropError("the pipeline is fused: no tensors travel, so that it has no work bucket")
        return self._work

    def _only(self, stage: str) -> RouteStages | FusedStages:
        if len(self.routes) > 1:
            names = ", ".join(self.routes)
            raise PropError(f"the pipeline has the routes {names}; take .routes['{next(iter(self.routes))}'].{stage}")
        return next(iter(self.routes.values()))

    def _report(self, plan: RoutePlan, traffic: Traffic | None, *, fused: bool, chosen: bool) -> None:
        """Say what was calibrated and decided: in the template, in outputs, and as warnings."""
        cascades, summaries = [], []
        for leg in plan.legs.values():
            calibration = None if leg.escalation is None else leg.escalation.calibration
            if leg.escalation is None or calibration is None:
                continue
            from cdk_inference.routing.route_costs import cascade_costs  # noqa: PLC0415 - for cascades

            then = plan.routes[plan.destinations[leg.escalation.then].leg]
            costs = cascade_costs(leg.route, then, calibration)
            cascades.append(calibration.manifest(cost_per_million=costs))
            summaries.append(calibration.summary)
            if calibration.warning:
                Annotations.of(self).add_warning_v2("cdk-inference:cascade", calibration.warning)
        if cascades:
            mark(self.workflow.state_machine, "state-machine", cascades=cascades)
            CfnOutput(self, "Cascades", value="; ".join(summaries), description="which model's answer counts, and why")
        if plan.decisions:
            decisions = "\n\n".join(plan.decisions)
            CfnOutput(self, "Decision", value=decisions, description="why items go where they go")
            Annotations.of(self).add_info_v2("cdk-inference:decision", decisions)
        if traffic is not None and plan.entry:  # all items begin there
            from cdk_inference.routing.route_costs import advise, warn_of_backlog  # noqa: PLC0415 - for who asks

            route = plan.legs[plan.destinations[plan.entry].leg].route
            if not chosen:  # who has chosen a capacity needs no advice
                advise(self, route, traffic, fused=fused)
            warn_of_backlog(self, route, traffic)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects into the inbox."""
        return self.trigger.grant_put(grantee)

    def metric(self, name: str, **options: Any) -> cloudwatch.Metric:
        """Return a metric that the postprocessing function records for this pipeline, as a sum over 5 minutes."""
        return cloudwatch.Metric(
            **{
                "namespace": METRIC_NAMESPACE,
                "metric_name": name,
                "dimensions_map": {"pipeline": metrics_name(self)},
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

    def metric_escalated(self, **options: Any) -> cloudwatch.Metric:
        """Count the objects that a cascade's first model was not sure of, as a sum over 5 minutes."""
        return self.metric("Escalated", **options)

    def metric_latency(self, **options: Any) -> cloudwatch.Metric:
        """Measure the milliseconds from an object's event to its row, the 95th percentile over 5 minutes."""
        return self.metric("Latency", **{"statistic": cloudwatch.Stats.p(95), **options})

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the events that EventBridge was not able to deliver to the queue, the maximum over 5 minutes."""
        return self.trigger.metric_undelivered(**options)

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages in the dead-letter queue, the maximum over 5 minutes."""
        return self.trigger.metric_dead_letters(**options)


def _branch(
    model: ModelArtifact | None, preprocess: Preprocess | None, inference: Inference | None, routing: Branch | None
) -> Branch:
    if routing is not None:
        props = {"model": model, "preprocess": preprocess, "inference": inference}
        given = [name for name, prop in props.items() if prop is not None]
        if given:
            raise PropError(
                f"routing and {given[0]} are both given; each route has its own, so leave out {', '.join(given)}"
            )
        return routing
    if model is None:
        raise PropError("model must be a ModelArtifact, got None; pass one, or a routing")
    if preprocess is None:
        raise PropError("preprocess is not given; say how objects become the model's input, such as Preprocess.image")
    return Route("main", model=model, preprocess=preprocess, inference=inference or Inference.cpu())


def _check_suffixes(suffixes: Sequence[str], preprocess: Preprocess) -> None:
    for suffix in suffixes:
        if preprocess.suffixes is not None and suffix.lower() not in preprocess.suffixes:
            raise PropError(
                f"suffixes has '{suffix}', which the preprocessing cannot read; "
                f"it reads {', '.join(preprocess.suffixes)}"
            )


def _check_fused(plan: RoutePlan, *memory_sizes: int) -> None:
    """Refuse what a fused function cannot do, and props of functions that there are not."""
    for leg in plan.legs.values():
        if leg.escalation is not None:
            raise PropError(
                f"fused is True, and '{leg.name}' is a cascade, which hands on what its first model is unsure of; "
                "leave fused out, or the cascade"
            )
    for route in plan.routes.values():
        if not isinstance(route.inference, CpuStrategy):
            raise PropError(
                f"fused is True, and route '{route.name}' does not run on the CPU, where a fused function runs; leave "
                "fused out, use Inference.cpu(), or give the GPU a pipeline of its own"
            )
    for (prop, default), given in zip(_STAGE_MEMORY.items(), memory_sizes, strict=True):
        if given != default:
            raise PropError(
                f"fused is True, and {prop} is {given}, of which there is no function; "
                "use inference=Inference.cpu(memory_size=…)"
            )


def _check_timeouts(
    batch_size: int, stage_timeout: Duration, workflow_timeout: Duration, plan: RoutePlan, *, fused: bool
) -> None:
    workflow = seconds("workflow_timeout", workflow_timeout, least=1, most=_EXPRESS_LIMIT_SECONDS)
    stage = seconds("stage_timeout", stage_timeout, least=1, most=_EXPRESS_LIMIT_SECONDS)
    if workflow is None or stage is None or Token.is_unresolved(batch_size):
        return
    # The batch, its parts, and single items.
    rounds = 1 + (batch_size > 1) + (batch_size > PARTS)
    # After the first of three stages, the last part still has two to go.
    invocations = rounds if fused else rounds + 2
    for leg in plan.legs.values():
        routes = [leg.route]
        if leg.escalation is not None:
            routes.append(plan.routes[plan.destinations[leg.escalation.then].leg])
        slowest = [max(stage, _own_timeout(route)) for route in routes]
        if invocations * sum(slowest) > workflow:
            which = "stage_timeout" if max(slowest) == stage else f"the timeout of inference on route {routes[-1].name}"
            raise PropError(
                f"{which} is {max(slowest)} s: finding the objects that time out in a batch of {batch_size} takes "
                f"{invocations * len(routes)} invocations, which do not fit into the workflow's {workflow} s; "
                f"use at most {workflow // (invocations * len(routes))} s, or smaller batches"
            )


def _own_timeout(route: Route) -> float:
    """Return the seconds that inference on a route may take in the express workflow, if it says so itself."""
    inference = route.inference
    if not isinstance(inference, CpuStrategy) or inference.timeout is None:
        return 0
    return seconds("timeout", inference.timeout, least=1, most=_EXPRESS_LIMIT_SECONDS) or 0
