"""The pipeline: wires the trigger, the stages, the workflow and the results together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Unpack

from aws_cdk import Annotations, CfnOutput, Duration, Size
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from constructs import Construct
from typing_extensions import TypeVar

from cdk_inference.common.environments import check_environment
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.deprecations import renamed_attribute, renamed_props, warn_deprecated
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.deprecated import chosen_execution
from cdk_inference.pipeline.execution_strategy import PipelineParts, RouteStages
from cdk_inference.pipeline.staged import SeparateStages
from cdk_inference.pipeline.timeouts import EXPRESS_LIMIT_SECONDS, check_timeouts
from cdk_inference.pipeline.workflow import InferenceWorkflow
from cdk_inference.routing.inference import Inference
from cdk_inference.routing.plan import RoutePlan
from cdk_inference.routing.route import Route
from cdk_inference.routing.router import Router
from cdk_inference.stages.postprocess import Postprocess
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.results import ResultsTable
from cdk_inference.triggers.s3 import S3Trigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy
    from aws_cdk import aws_ec2 as ec2
    from aws_cdk import aws_events as events
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_kms as kms
    from aws_cdk import aws_s3 as s3
    from aws_cdk import aws_sns as sns

    from cdk_inference.audit.audit_log import AuditLog
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.costs.options import Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.events.patterns import Status
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.monitoring.alarms import PipelineAlarms
    from cdk_inference.monitoring.dashboard import PipelineDashboard
    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.pipeline.deprecated import OldProps
    from cdk_inference.pipeline.execution_strategy import ExecutionStrategy, WorkflowLogs
    from cdk_inference.releases.strategy import Arms, ReleaseStrategy
    from cdk_inference.routing.plan import Branch
    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import IS3Trigger

METRIC_NAMESPACE = "cdk-inference"
_BATCH_SIZE, _MAX_RECEIVE_COUNT = 32, 10
_OWN = "main"  # the route of the pipeline's own model

StagesT = TypeVar("StagesT", bound=RouteStages, default=SeparateStages)


@check_props
@renamed_props(
    batch_window="max_batching_window",
    max_object_bytes=("max_object_size", Size.bytes),
    result_ttl_days=("result_ttl", Duration.days),
)
class InferencePipeline(Construct, Generic[StagesT]):
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
        Default: one month.
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
        routing: Branch | None = None,
        release: ReleaseStrategy | None = None,
        execution: ExecutionStrategy[StagesT] | None = None,
        trigger: IS3Trigger | None = None,
        bucket: s3.IBucket | None = None,
        prefix: str = "",
        suffixes: Sequence[str] = (),
        results: IResultsTable | None = None,
        encryption_key: kms.IKey | None = None,
        batch_size: int = _BATCH_SIZE,
        max_batching_window: Duration | None = None,
        max_receive_count: int = _MAX_RECEIVE_COUNT,
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
        arms = None if release is None else _arms(release, model, preprocess, inference, routing)
        plan = RoutePlan.of(_branch(model, preprocess, inference, routing) if arms is None else arms)
        routed = routing is not None or arms is not None
        self._plan, self._capacity = plan, capacity
        self.drift_monitors: list[DriftMonitor] = []
        self._execution: ExecutionStrategy[StagesT] = chosen_execution(execution, old)
        self._execution.check(plan, capacity)
        models = 2 if any(planned.escalation for planned in plan.planned.values()) else 1
        default_timeout = Duration.seconds(self._execution.default_timeout(models))
        per_stage = stage_timeout if stage_timeout is not None else default_timeout
        per_batch = workflow_timeout if workflow_timeout is not None else Duration.seconds(EXPRESS_LIMIT_SECONDS)
        _check_trigger(trigger, bucket, prefix, suffixes, batch_size, max_batching_window, max_receive_count)
        batch_size = trigger.batch_size if trigger is not None else batch_size
        check_timeouts(batch_size, per_stage, per_batch, plan, functions_in_turn=self._execution.functions_in_turn)

        if encryption_key is None:
            key: kms.IKey = encryption.create_key(self, "Key", removal_policy=data_removal_policy(self, removal_policy))
        else:
            key = encryption_key
            encryption.check_key(self, key)
        if results is not None:
            check_environment(self, "results", results.table, fix="use a table of that account and Region")
        encryption.allow_logs(key, self)

        self.trigger: IS3Trigger = (
            trigger
            if trigger is not None
            else S3Trigger(
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
            _check_suffixes(suffixes, route.preprocess)
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
        )
        # The stages of the pipeline's own model are its own children, and a release leaves them where they are.
        parent = Construct(self, "Routes") if routed else self
        scopes = {name: self if name == _OWN and routing is None else Construct(parent, name) for name in plan.routes}
        self.routes: dict[str, StagesT] = self._execution.bind(self, plan, scopes, parts)
        self.release = None if release is None or arms is None else release.bind(self, arms, self.routes, parts)
        self.workflow = InferenceWorkflow(
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
        self.trigger.add_target(self.workflow.state_machine)
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
            from cdk_inference.routing.route_costs import cascade_costs  # noqa: PLC0415 - for cascades

            then = plan.routes[plan.destinations[planned.escalation.then].planned]
            costs = cascade_costs(planned.route, then, calibration)
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
        from cdk_inference.routing.route_costs import warn_of_backlog  # noqa: PLC0415 - only for those who ask

        if self._plan.entry:  # all items begin there
            route = self._plan.planned[self._plan.destinations[self._plan.entry].planned].route
            self._execution.advise_capacity(self, route, traffic, self._capacity)
            warn_of_backlog(self, route, traffic)

    def add_drift_monitor(
        self,
        id: str = "Drift",
        *,
        window: Duration | None = None,
        false_alarm_rate: float = 0.01,
        min_objects: int = 50,
        metric_per_statistic: bool = False,
    ) -> DriftMonitor:
        """Compare what is scored with the evaluation data of the models, and record a metric of how unlike it is.

        All routes are watched, but the second model of a cascade. It only gets what the first one is unsure of, and no
        evaluation data are like that.

        Parameters
        ----------
        id
            The id of the construct.
        window
            The time whose objects are judged together. It divides an hour or a day, such as 5, 15 or 30 minutes, or 1,
            6 or 24 hours, in UTC. Default: one hour.
        false_alarm_rate
            How likely a window without drift is said to drift, whatever the number of statistics. Default: 0.01. That
            is 7 hourly windows a month, so an alarm may ask for two in a row.
        min_objects
            A window with fewer gives no data. Default: 50.
        metric_per_statistic
            Whether to record a metric for each statistic too, at 0.30 USD a month each. Default: only the highest is
            a metric; the log has all.

        Raises
        ------
        PropError
            A model has no baseline, or one of too few samples; a window does not divide a day; or a number is out of
            range. Or there is a drift monitor already.
        """
        if self.drift_monitors:
            raise PropError(
                f"{self.node.path} must have one drift monitor, got another, '{id}'; it watches all routes, so use "
                f"'{self.drift_monitors[0].node.id}'"
            )
        from cdk_inference.monitoring.drift import DriftMonitor  # noqa: PLC0415 - only for those who ask
        from cdk_inference.monitoring.watched import WatchedRoute  # noqa: PLC0415

        postprocess = self._parts.postprocess
        monitor = DriftMonitor(
            self,
            id,
            routes=[
                WatchedRoute(
                    name=name,
                    model=planned.route.model,
                    postprocess=planned.route.postprocess if planned.route.postprocess is not None else postprocess,
                    input_stage=self.routes[name].input_stage,
                    output_stage=self.routes[name].output_stage,
                    escalation=planned.escalation,
                )
                for name, planned in self._plan.first_hand.items()
            ],
            window=window,
            false_alarm_rate=false_alarm_rate,
            min_objects=min_objects,
            metric_per_statistic=metric_per_statistic,
            removal_policy=self._parts.workflows["log_removal_policy"],
            **self._parts.functions,
        )
        self.drift_monitors.append(monitor)
        return monitor

    def add_dashboard(
        self, id: str = "Dashboard", *, name: str | None = None, prices: Prices | None = None
    ) -> PipelineDashboard:
        """Add a dashboard: what goes through, how long it takes, what fails, what it costs, and drift.

        Add drift monitors before. A dashboard costs 3 USD a month, after the first three of an account.

        Parameters
        ----------
        id
            The id of the construct.
        name
            The dashboard's name. Default: CloudFormation chooses one.
        prices
            The prices of the estimate for 1,000 objects. Default: list prices of us-east-1.
        """
        from cdk_inference.monitoring.dashboard import PipelineDashboard  # noqa: PLC0415 - only for those who ask

        return PipelineDashboard(self, id, pipeline=self, name=name, prices=prices)

    def add_alarms(
        self,
        id: str = "Alarms",
        *,
        topic: sns.ITopic | None = None,
        actions: Sequence[cloudwatch.IAlarmAction] = (),
        max_latency: Duration | None = None,
        max_message_age: Duration | None = None,
        max_rejected_share: float = 0.2,
        runbook: str = "docs/operate/runbook.md",
    ) -> PipelineAlarms:
        """Add alarms on what needs a person.

        Each says in its description why, where its threshold is from, and which section of the runbook helps. Add drift
        monitors before. An alarm costs 0.10 USD a month.

        Parameters
        ----------
        id
            The id of the construct.
        topic
            The topic that is notified.
        actions
            Further actions of each alarm, such as those of ``aws_cloudwatch_actions``. Default: none.
        max_latency
            The 95th percentile of the time from an object's event to its row. Default: 5 minutes.
        max_message_age
            The age of the oldest message in the queue. Default: 15 minutes.
        max_rejected_share
            The share of objects that may be refused for what they contain, if there are 20 or more. Default: 0.2.
        runbook
            Where the runbook is, as descriptions name it; an anchor is added. Default: the page of this library.

        Raises
        ------
        PropError
            The share is not one.
        """
        from cdk_inference.monitoring.alarms import PipelineAlarms  # noqa: PLC0415 - only for those who ask

        return PipelineAlarms(
            self,
            id,
            pipeline=self,
            topic=topic,
            actions=actions,
            max_latency=max_latency,
            max_message_age=max_message_age,
            max_rejected_share=max_rejected_share,
            runbook=runbook,
        )

    @property
    def escalates(self) -> bool:
        """Whether a cascade passes objects on."""
        return any(planned.escalation is not None for planned in self._plan.planned.values())

    def on_result(
        self,
        id: str,
        *,
        target: events.IRuleTarget | None = None,
        statuses: Sequence[Status] = (),
        routes: Sequence[str] = (),
        event_bus: events.IEventBus | None = None,
        event_pattern: events.EventPattern | None = None,
        description: str | None = None,
        rule_name: str | None = None,
    ) -> events.Rule:
        """Send an event to a target for each row that this pipeline writes.

        The event has the row's keys, the object's bucket and key, status, route, variant, model version and time. It
        has neither prediction nor reason: whoever may read them finds the row by ``object`` and ``version``. An event
        may come twice, with the same ``event_id``.

        The first rule of a table turns its stream on and creates the pipe, see `ResultEvents`.

        Parameters
        ----------
        id
            The id of the rule.
        target
            The target of the events, such as ``aws_events_targets.SqsQueue(queue)``. Default: none yet.
        statuses
            ``"SUCCEEDED"``, ``"REJECTED"`` and ``"FAILED"``. Default: all.
        routes
            Names of routes. Default: all.
        event_bus
            Where events go. It is the same for all rules of a table. Default: the default bus of the account.
        event_pattern
            More conditions on the event. Default: none.
        description, rule_name
            As those of CDK's rules. Default: none, and CloudFormation makes a name.

        Raises
        ------
        PropError
            A status or a route does not exist, or the events of the table go to another bus. Also if the stream of an
            imported table is not known.
        """
        from aws_cdk import aws_events as events  # noqa: PLC0415 - only for those who ask

        from cdk_inference.events.patterns import result_pattern  # noqa: PLC0415
        from cdk_inference.events.result_events import ResultEvents  # noqa: PLC0415

        unknown = [name for name in routes if name not in self.routes]
        if unknown:
            raise PropError(f"routes must be of {', '.join(self.routes)}, got '{unknown[0]}'")
        pattern = result_pattern(
            statuses=statuses,
            routes=routes,
            buckets=[self.trigger.bucket.bucket_name],
            prefix=self.trigger.prefix,
            tables=[self.results.table.table_arn],
        )
        rule = events.Rule(
            self,
            id,
            event_bus=ResultEvents.of(self.results, event_bus).event_bus,
            event_pattern=event_pattern,
            description=description,
            rule_name=rule_name,
        )
        rule.add_event_pattern(
            source=pattern.source, detail_type=pattern.detail_type, resources=pattern.resources, detail=pattern.detail
        )
        if target is not None:
            rule.add_target(target)
        return rule

    def audit(self, log: AuditLog, id: str = "Audit") -> None:
        """Record what this pipeline answers, and which models are deployed, in a log that nobody can change.

        Rows get the hash of their prediction, ``answer_sha256``. Answers are recorded through `on_result`.

        Parameters
        ----------
        log
            The log, which pipelines of a Region may share.
        id
            The id of the construct that has the rules.

        Raises
        ------
        PropError
            As that of `on_result`.
        """
        from cdk_inference.events.result_events import ResultEvents  # noqa: PLC0415 - only for those who ask

        self.on_result(f"{id}Results", target=log.target(self), description="records the answers of a pipeline")
        for stages in self.routes.values():
            stages.output_stage.add_variables({"ANSWER_HASH": "sha256"})
        models = {name: planned.route.model.version for name, planned in self._plan.planned.items()}
        log.follow(self, id, models=models, event_bus=ResultEvents.of(self.results).event_bus)

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
        """Count the events that EventBridge could not deliver to the queue, the maximum over 5 minutes."""
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
            raise PropError(f"{', '.join(given)} must be left out with routing, got both; each route has its own")
        return routing
    if model is None:
        raise PropError("model must be a ModelArtifact, got None; pass one, or a routing")
    if preprocess is None:
        raise PropError(
            "preprocess must be set, got None; say how objects become the model's input, such as Preprocess.image"
        )
    return _own_route(model, preprocess, inference)


def _arms(
    release: ReleaseStrategy,
    model: ModelArtifact | None,
    preprocess: Preprocess | None,
    inference: Inference | None,
    routing: Branch | None,
) -> Arms | None:
    if routing is not None:
        if release.side_by_side:
            raise PropError("routing must be left out with a release, got both; release its models one after the other")
        return None
    own = None if model is None or preprocess is None else _own_route(model, preprocess, inference)
    return release.arms(own)


def _own_route(model: ModelArtifact, preprocess: Preprocess, inference: Inference | None) -> Route:
    return Route(_OWN, model=model, preprocess=preprocess, inference=inference or Inference.cpu())


def _check_trigger(
    trigger: IS3Trigger | None,
    bucket: s3.IBucket | None,
    prefix: str,
    suffixes: Sequence[str],
    batch_size: int,
    window: Duration | None,
    max_receive_count: int,
) -> None:
    given = {
        "bucket": bucket is not None,
        "prefix": bool(prefix),
        "suffixes": bool(suffixes),
        "batch_size": batch_size != _BATCH_SIZE,
        "max_batching_window": window is not None,
        "max_receive_count": max_receive_count != _MAX_RECEIVE_COUNT,
    }
    names = [name for name, is_given in given.items() if is_given]
    if trigger is not None and names:
        raise PropError(f"{names[0]} must be left out with a trigger, got both; give it to the trigger")


def _check_suffixes(suffixes: Sequence[str], preprocess: Preprocess) -> None:
    for suffix in suffixes:
        if preprocess.suffixes is not None and suffix.lower() not in preprocess.suffixes:
            raise PropError(
                f"suffixes must be ones that the preprocessing reads ({', '.join(preprocess.suffixes)}), got '{suffix}'"
            )
