"""How a team watches a pipeline that runs: drift, dashboard, alarms, events and audit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aws_cdk import Token

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError
from cdk_inference.pipeline.measured import MeasuredPipeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aws_cdk import Duration, Size
    from aws_cdk import aws_apigateway as apigateway
    from aws_cdk import aws_apigatewayv2 as apigatewayv2
    from aws_cdk import aws_cloudwatch as cloudwatch
    from aws_cdk import aws_events as events
    from aws_cdk import aws_iam as iam
    from aws_cdk import aws_s3 as s3
    from aws_cdk import aws_sns as sns

    from cdk_inference.api.http_api import InferenceHttpApi
    from cdk_inference.api.rest_api import InferenceRestApi
    from cdk_inference.audit.audit_log import AuditLog
    from cdk_inference.backfill.backfill import Backfill
    from cdk_inference.costs.edge import EdgeTraffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.edge.component import EdgeArchitecture, EdgeComponent
    from cdk_inference.edge.inputs import EdgeInput
    from cdk_inference.events.patterns import Status
    from cdk_inference.monitoring.alarms import PipelineAlarms
    from cdk_inference.monitoring.dashboard import PipelineDashboard
    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.pipeline.execution_strategy import ExecutionStrategy, PipelineParts
    from cdk_inference.pipeline.workflow import InferenceWorkflow
    from cdk_inference.releases.control import ReleaseControl
    from cdk_inference.retraining.jobs import RetrainingJob
    from cdk_inference.retraining.reasons import RetrainingReason
    from cdk_inference.retraining.retraining import Retraining
    from cdk_inference.routing.route import Route
    from cdk_inference.storage.results import IResultsTable


@check_props
class OperatedPipeline(MeasuredPipeline):
    """A pipeline, as those see it who operate it; see `InferencePipeline`."""

    results: IResultsTable
    workflow: InferenceWorkflow | None = None
    release: ReleaseControl | None
    edges: tuple[EdgeComponent, ...] = ()
    drift_monitors: list[DriftMonitor]
    _audit_bus: events.IEventBus | None = None  # that of the events that an audit log wants
    _retraining: Retraining | None = None
    _parts: PipelineParts
    _execution: ExecutionStrategy[Any]

    @property
    def described_routes(self) -> dict[str, Route]:
        """The model and the stages of each route as you described them, for `cdk_inference.testing`."""
        return {
            name: route if route.postprocess is not None else replace(route, postprocess=self._parts.postprocess)
            for name, route in self._plan.routes.items()
        }

    @property
    def max_object_size(self) -> Size | None:
        """The size from which objects are rejected, as given."""
        return self._parts.max_object_size

    @property
    def stage_timeout(self) -> Duration:
        """The time limit of one invocation of a stage."""
        return self._parts.timeout

    @property
    def _row_versions(self) -> list[str]:
        """The versions of models that the sort keys of this pipeline's rows end in."""
        ways = self._plan.planned.values()
        return [way.route.model.version if way.escalation is None else way.escalation.row_version for way in ways]

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
        if self._audit_bus is not None:
            monitor.announce(self._audit_bus)
        self.drift_monitors.append(monitor)
        return monitor

    def add_dashboard(
        self, id: str = "Dashboard", *, name: str | None = None, prices: Prices | None = None
    ) -> PipelineDashboard:
        """Add a dashboard: what goes through, how long it takes, what fails, what it costs, and drift.

        It compares routes and variants, if there are several, and has metrics recorded for each, as `metric` does. A
        release adds its share and its decisions. Add drift monitors before. A dashboard costs 3 USD a month, after the
        first three of an account.

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

    def add_backfill(
        self,
        id: str = "Backfill",
        *,
        inventory_bucket: s3.IBucket | None = None,
        prices: Prices | None = None,
    ) -> Backfill:
        """Add a state machine that scores objects which are in the bucket already.

        ``python -m cdk_inference.backfill start STACK`` starts it, for the objects under a prefix, of a list, or of an
        S3 Inventory. Objects that the pipeline's models have scored are left out. It costs nothing as long
        as it does not run.

        Parameters
        ----------
        id
            The id of the construct.
        inventory_bucket
            The bucket where S3 Inventory puts lists of the trigger's bucket, as CSV. Default: backfills take no
            inventory.
        prices
            The prices of the estimate before a start. Default: list prices of us-east-1.

        Raises
        ------
        PropError
            The trigger has messages instead of objects, or the pipeline lacks a workflow.
        """
        from cdk_inference.backfill.backfill import Backfill  # noqa: PLC0415 - only for those who ask
        from cdk_inference.costs.backfills import BackfillPrices  # noqa: PLC0415
        from cdk_inference.costs.options import PipelineShape  # noqa: PLC0415
        from cdk_inference.routing.route_costs import planned_option  # noqa: PLC0415
        from cdk_inference.triggers.base import IS3Trigger  # noqa: PLC0415

        if not isinstance(self.trigger, IS3Trigger):
            again = (
                "messages are gone once they are scored, so send them again"
                if self.trigger.objects is None
                else "copy an object onto itself to have its items scored again"
            )
            raise PropError(f"trigger must be an S3Trigger for a backfill, got {type(self.trigger).__name__}; {again}")
        if self.workflow is None:
            raise PropError(f"{self.node.path} must have a workflow for a backfill, got none; use an InferencePipeline")
        ways = self._plan.planned.values()
        return Backfill(
            self,
            id,
            trigger=self.trigger,
            results=self.results,
            workflow=self.workflow,
            models=self._row_versions,
            inventory_bucket=inventory_bucket,
            prices=BackfillPrices.of(
                [planned_option(self._plan, way) for way in ways],
                shape=PipelineShape(batch_size=self.trigger.batch_size, fused=not self._execution.outputs_travel),
                prices=prices,
            ),
            functions=self._parts.functions,
            workflows=self._parts.workflows,
        )

    def add_retraining(
        self,
        id: str = "Retraining",
        *,
        classes: Sequence[str] | Path,
        training: RetrainingJob,
        build: RetrainingJob,
        deployment: RetrainingJob,
        when: Sequence[RetrainingReason],
        max_runs_per_month: int = 4,
        job_timeout: Duration | None = None,
        held_out: float = 0.2,
        salt: str = "",
        event_bus: events.IEventBus | None = None,
    ) -> Retraining:
        """Train the model again with new labels, and take it out if it passes its gate.

        A run trains weights, builds the recipe with them, and deploys what the gate of the recipe lets through. There
        is one run at a time, and one for each set of labels. An `audit` log records what became of it.

        Parameters
        ----------
        id
            The id of the construct.
        classes
            The names that labels may have, or the path of a file with one a line.
        training
            The job that trains: ``python -m cdk_inference.retraining train``.
        build
            The job that builds the recipe with the new weights, and judges it: ``… build``.
        deployment
            The job that takes out a model which has passed, such as by ``cdk deploy`` with a canary.
        when
            The reasons to retrain.
        max_runs_per_month
            How many runs a month may train, in UTC. Default: 4.
        job_timeout
            How long each job may take, 1 minute to 7 days. Default: 2 hours.
        held_out
            The share of the labelled objects that training does not see. The build job puts them next to the recipe,
            whose evaluation can judge the model by them. Default: 0.2.
        salt
            Another salt trains with the same labels again, such as after a change of the training. Default: none.
        event_bus
            Where events for outcomes go. Default: that of the audit log, if `audit` was called before, or the default
            bus of the account.

        Raises
        ------
        PropError
            There is a retraining already, or the trigger has messages instead of objects. There are too few classes or
            a class twice, no reason to retrain, or two of new labels. A number or a duration is out of range, or the
            workflow could not wait for the end of a job. Or the events go to another bus than the audit log has.
        """
        if self._retraining is not None:
            raise PropError(
                f"{self.node.path} must have one retraining, got another, '{id}'; give '{self._retraining.node.id}' "
                "all reasons"
            )
        from cdk_inference.retraining.retraining import Retraining  # noqa: PLC0415 - only for those who ask
        from cdk_inference.triggers.base import IS3Trigger  # noqa: PLC0415

        if not isinstance(self.trigger, IS3Trigger):
            raise PropError(
                f"trigger must be an S3Trigger for a retraining, got {type(self.trigger).__name__}; messages are gone "
                "once they are scored, so put objects into a bucket"
            )
        retraining = Retraining(
            self,
            id,
            trigger=self.trigger,
            results=self.results,
            classes=classes,
            training=training,
            build=build,
            deployment=deployment,
            when=when,
            max_runs_per_month=max_runs_per_month,
            job_timeout=job_timeout,
            held_out=held_out,
            salt=salt,
            event_bus=event_bus if event_bus is not None else self._audit_bus,
            functions=self._parts.functions,
            workflows=self._parts.workflows,
        )
        if self._audit_bus is not None:
            retraining.check_bus(self._audit_bus)
        self._retraining = retraining
        return retraining

    def add_edge(
        self,
        id: str = "Edge",
        *,
        route: Route,
        inputs: Sequence[EdgeInput],
        then: Route | None = None,
        agreement: float | None = None,
        threshold: float | None = None,
        architectures: Sequence[EdgeArchitecture] = ("arm64", "x86_64"),
        python: str = "3.13",
        name: str | None = None,
        version: str = "1.0",
        results: bool = True,
        results_folder: str | None = None,
        max_spool: Size | None = None,
        max_uplink: Size | None = None,
        traffic: EdgeTraffic | None = None,
        prices: Prices | None = None,
    ) -> EdgeComponent:
        """Score on devices, and send this pipeline what they are unsure of.

        It is a cascade whose first model runs on the devices. They work without a network, and catch up afterwards. A
        component of AWS IoT Greengrass runs the agent. For other devices, there is ``python -m cdk_inference.anywhere
        device``.

        Parameters
        ----------
        id
            The id of the construct.
        route
            The route that the devices run: a model for a CPU, with what comes before and after it.
        inputs
            Where a device takes its items from: `EdgeInput.folder`, `EdgeInput.mqtt`, or both.
        then
            The route of this pipeline with which the devices shall agree. Default: the only one.
        agreement
            The share of the evaluation samples on which both together must answer as `then`. The first synth finds the
            threshold. Default: 0.99.
        threshold
            The confidence below which a device sends an item, from 0 to 1, if you know better. With 0 it sends none.
        architectures
            Those of the devices, ``"arm64"`` and ``"x86_64"``. Default: both.
        python
            The version of Python on the devices, 3.11 or newer. Default: ``"3.13"``, that of Debian 13.
        name
            The name of the component. Default: made of the names of the stack and of the pipeline.
        version
            Major and minor version of the component. A number that comes from the content follows. Default: ``"1.0"``.
        results
            Whether what devices answer themselves becomes a row, too. Default: yes.
        results_folder
            A folder on the device where the agent writes its answers as lines of JSON. Default: none.
        max_spool
            The space on the device for what waits for a network. A device whose space is full takes no more items.
            Default: 1 GiB, or that of two objects of `max_object_size`.
        max_uplink
            How much a device sends in a second at most, 4 KiB or more. Default: as much as the network takes.
        traffic
            The devices that you expect, for an estimate of what they send and cost. Default: no estimate.
        prices
            The prices of the estimate. Default: list prices of us-east-1.

        Raises
        ------
        PropError
            The trigger has no bucket, the route cannot run on a device, or several routes of this pipeline could be
            meant by `then`. A threshold is given with an agreement. Or a prop is out of range.
        ModelBuildError
            The two models' evaluation data are not the same samples, or a model cannot be built for an architecture.
        """
        from cdk_inference.costs.options import MOST_IN_A_BATCH, PipelineShape  # noqa: PLC0415 - only for those who ask
        from cdk_inference.edge.component import EdgeComponent  # noqa: PLC0415
        from cdk_inference.edge.escalation import escalation_of  # noqa: PLC0415
        from cdk_inference.routing.route_costs import planned_option  # noqa: PLC0415
        from cdk_inference.triggers.base import IS3Trigger  # noqa: PLC0415

        if not isinstance(self.trigger, IS3Trigger):
            raise PropError(
                f"trigger must be an S3Trigger for devices, got {type(self.trigger).__name__}; they put objects into "
                "its bucket"
            )
        if route.postprocess is None:
            route = replace(route, postprocess=self._parts.postprocess)
        batch_size = self.trigger.batch_size
        ways = [planned_option(self._plan, way) for way in self._plan.planned.values()]
        edge = EdgeComponent(
            self,
            id,
            pipeline=self,
            trigger=self.trigger,
            results=self.results if results else None,
            route=route,
            escalation=escalation_of(route, self._plan, then=then, agreement=agreement, threshold=threshold),
            inputs=inputs,
            architectures=architectures,
            python=python,
            name=name,
            version=version,
            max_spool=max_spool,
            max_uplink=max_uplink,
            results_folder=results_folder,
            traffic=traffic,
            prices=prices,
            cloud=ways[0] if len(ways) == 1 else None,
            shape=PipelineShape(
                batch_size=MOST_IN_A_BATCH if Token.is_unresolved(batch_size) else min(batch_size, MOST_IN_A_BATCH),
                fused=not self._execution.outputs_travel,
                direct=self.workflow is None,
            ),
            result_ttl=self._parts.result_ttl,
        )
        self.edges = (*self.edges, edge)
        return edge

    def add_http_api(
        self,
        id: str = "HttpApi",
        *,
        route: str | None = None,
        authorizer: apigatewayv2.IHttpRouteAuthorizer | None = None,
        authorization_scopes: Sequence[str] = (),
        content_types: Sequence[str] = (),
        request_schema: Mapping[str, object] | None = None,
        cors_preflight: apigatewayv2.CorsPreflightOptions | None = None,
        throttle_rate: int = 100,
        throttle_burst: int = 200,
    ) -> InferenceHttpApi:
        """Add an HTTP API whose callers wait for the prediction: ``POST /predict`` with the bytes of one item.

        API Gateway invokes the function of a pipeline with `Execution.fused`. An HTTP API costs 1.00 USD for a million
        requests, besides the function.

        Parameters
        ----------
        id
            The id of the construct.
        route
            The route that answers. Default: the only one.
        authorizer, authorization_scopes, content_types, request_schema, cors_preflight, throttle_rate, throttle_burst
            As those of `InferenceHttpApi`.

        Raises
        ------
        PropError
            The stages are separate functions, there are several routes, or a prop is that `InferenceHttpApi` refuses.
        """
        from cdk_inference.api.http_api import InferenceHttpApi  # noqa: PLC0415 - only for those who ask

        name = self._answering_route(route)
        function = self.routes[name].answering_function
        if function is None:
            raise PropError(
                f"{self.node.path} must have execution=Execution.fused() for an HTTP API, got separate stages; an HTTP "
                "API cannot read the output of a workflow"
            )
        return InferenceHttpApi(
            self,
            id,
            function=function,
            authorizer=authorizer,
            authorization_scopes=authorization_scopes,
            content_types=content_types,
            request_schema=request_schema,
            cors_preflight=cors_preflight,
            throttle_rate=throttle_rate,
            throttle_burst=throttle_burst,
            **self._parts.workflows,
        )

    def add_rest_api(
        self,
        id: str = "RestApi",
        *,
        route: str | None = None,
        content_types: Sequence[str] = ("application/json",),
        request_schema: Mapping[str, object] | None = None,
        authorizer: apigateway.IAuthorizer | None = None,
        authorization_scopes: Sequence[str] = (),
        api_key_required: bool = False,
        anonymous: bool = False,
        cors_preflight: apigateway.CorsOptions | None = None,
        throttle_rate: int = 100,
        throttle_burst: int = 200,
        web_acl_arn: str | None = None,
        cloud_watch_role: bool = False,
    ) -> InferenceRestApi:
        """Add a REST API whose callers wait for the prediction: ``POST /predict`` with the bytes of one item.

        API Gateway starts an express workflow with the stages of the pipeline, or invokes its function with
        `Execution.fused`. A REST API costs 3.50 USD for a million requests, besides what they start. With
        `Execution.fused`, `add_http_api` is cheaper.

        Parameters
        ----------
        id
            The id of the construct.
        route
            The route that answers. Default: the only one.
        content_types, request_schema, authorizer, authorization_scopes, api_key_required, anonymous
            As those of `InferenceRestApi`.
        cors_preflight, throttle_rate, throttle_burst, web_acl_arn, cloud_watch_role
            As those of `InferenceRestApi`.

        Raises
        ------
        PropError
            Requests might have to wait for a GPU, there are several routes, or a prop is one that `InferenceRestApi`
            refuses.
        """
        from cdk_inference.api.rest_api import InferenceRestApi  # noqa: PLC0415 - only for those who ask

        name = self._answering_route(route)
        return InferenceRestApi(
            self,
            id,
            backend=self.routes[name].api_backend(name if self._routed else None),
            trigger=self.trigger,
            results=self.results,
            content_types=content_types,
            request_schema=request_schema,
            authorizer=authorizer,
            authorization_scopes=authorization_scopes,
            api_key_required=api_key_required,
            anonymous=anonymous,
            cors_preflight=cors_preflight,
            throttle_rate=throttle_rate,
            throttle_burst=throttle_burst,
            web_acl_arn=web_acl_arn,
            cloud_watch_role=cloud_watch_role,
            functions=self._parts.functions,
            **self._parts.workflows,
        )

    def _answering_route(self, route: str | None) -> str:
        names = ", ".join(self.routes)
        if route is None and len(self.routes) > 1:
            raise PropError(f"route must be one of {names}, got None; name the one that answers")
        name = next(iter(self.routes)) if route is None else route
        if name not in self.routes:
            raise PropError(f"route must be one of {names}, got '{name}'")
        return name

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
            buckets=[self.trigger.source],
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
        """Record what this pipeline answers, and what is decided about its models, in a log that nobody can change.

        Rows get the hash of their prediction, ``answer_sha256``. Answers are recorded through `on_result`. Deployments
        and changes of models are recorded, and so are decisions about a `release`, verdicts of a drift monitor, and
        outcomes of a retraining, whether they are added before or after.

        Parameters
        ----------
        log
            The log, which pipelines of a Region may share.
        id
            The id of the construct that has the rules.

        Raises
        ------
        PropError
            As that of `on_result`. Or decisions or verdicts go to another bus than the rows of the table.
        """
        from cdk_inference.events.result_events import ResultEvents  # noqa: PLC0415 - only for those who ask

        self.on_result(f"{id}Results", target=log.target(self), description="records the answers of a pipeline")
        for stages in self.routes.values():
            stages.output_stage.add_variables({"ANSWER_HASH": "sha256"})
        self._audit_bus = bus = ResultEvents.of(self.results).event_bus
        for monitor in self.drift_monitors:
            monitor.announce(bus)
        if self.release is not None:
            self.release.announce(bus)
        if self._retraining is not None:
            self._retraining.check_bus(bus)
        models = {name: planned.route.model for name, planned in self._plan.planned.items()}
        log.follow(self, id, models=models, event_bus=bus)

    def grant_put(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee put objects into the inbox, or messages into the queue of a trigger without a bucket."""
        return self.trigger.grant_put(grantee)
