"""The drift monitor: counts what objects and answers are like, and compares each window with the model's baseline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_at_least, check_choice
from cdk_inference.errors import PropError
from cdk_inference.events.buses import bus_of, check_same_bus, rule_about
from cdk_inference.events.patterns import SOURCE, VERDICT
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.storage import encryption
from cdk_inference.storage.removal import data_removal_policy
from cdk_inference.storage.tables import private_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aws_cdk import RemovalPolicy

    from cdk_inference.monitoring.watched import WatchedRoute

DriftVerdict = Literal["DRIFT", "NO_DRIFT", "TOO_FEW_OBJECTS"]

_HOUR, _DAY = 3600, 86_400
_LEAST_WINDOW = 300
_MINUTE_AFTER = 2  # when late batches have been counted


@check_props
class DriftMonitor(Construct):
    """Compares what a pipeline scores with the evaluation data of its models; made by `pipeline.add_drift_monitor`.

    Postprocessing adds fixed-bin counts of each batch to one item of a table for each window. It counts labels,
    confidence, margin and entropy, or elements or projections of a vector. It also counts inputs: brightness, tokens or
    numeric features, for example. No object, input or output is kept. A function on a schedule tests each window that
    has ended against the counts of the evaluation data in the model's manifest. It logs the verdict with its evidence,
    and records the metric ``Drift``. The test is one of two samples (chi-squared, with the exact mean and variance of
    small samples), corrected for the number of statistics (Holm, 1979). A window with few objects gives no data.

    An object is counted once, when its row is new. Objects whose counts cannot be written are missing from the
    window. A count may be added twice if DynamoDB's answer to it is lost. So may that of an object that a cascade
    passes on, if it is delivered again.

    Parameters
    ----------
    routes
        The routes to watch.
    window
        See `InferencePipeline.add_drift_monitor`, as for the next three.
    false_alarm_rate, min_objects, metric_per_statistic
        See there.
    removal_policy
        The policy of the table.
    **options
        As those of `StageFunction`.

    Attributes
    ----------
    table
        The counts, by model and window, with the verdicts.
    function
        The function that judges.
    rule
        Its schedule.

    Raises
    ------
    PropError
        A window does not divide a day, or a rate or number is out of range.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        routes: Sequence[WatchedRoute],
        window: Duration | None = None,
        false_alarm_rate: float = 0.01,
        min_objects: int = 50,
        metric_per_statistic: bool = False,
        removal_policy: RemovalPolicy | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        super().__init__(scope, id)
        self._window = window if window is not None else Duration.hours(1)
        seconds = _window_seconds(self._window)
        if not 0 < false_alarm_rate <= 0.5:  # noqa: PLR2004 - more alarms would be false than not
            raise PropError(f"false_alarm_rate must be above 0 and at most 0.5, got {false_alarm_rate}")
        check_at_least(1, min_objects=min_objects)
        self._routes = {route.name: route for route in routes}
        self._event_bus: events.IEventBus | None = None
        self._key = key = options.get("encryption_key")
        self.table = private_table(
            self,
            "Windows",
            key=key,
            partition_key="model",
            sort_key="started_at",
            time_to_live_attribute="expires_at",
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=data_removal_policy(self, removal_policy),
        )
        add_metadata(self.table, "drift-windows")
        for route in routes:
            route.input_stage.add_variables({"DRIFT_INPUTS": route.observed("input")})
            route.output_stage.add_variables(
                {
                    "DRIFT_OUTPUTS": route.observed("output"),
                    "DRIFT_TABLE": self.table.table_name,
                    "DRIFT_MODEL": route.key,
                    "DRIFT_WINDOW": str(seconds),
                }
            )
            encryption.grant(key, route.output_stage, encryption.TABLE)
            self.table.grant(route.output_stage, "dynamodb:UpdateItem")
        judged = {route.key: route.judged() for route in routes}
        configuration = {
            "window": seconds,
            "false_alarm_rate": false_alarm_rate,
            "min_objects": min_objects,
            "metric_per_statistic": metric_per_statistic,
            "models": list(judged.values()),
        }
        unreserved: FunctionOptions = {**options, "reserved_concurrent_executions": None}
        self.function = StageFunction(
            self,
            "Judge",
            package=ZipPackage(
                handler="inference_runtime.handlers.drift.handler",
                runtime_requirements="sagemaker",  # nothing but botocore either
                sources={"drift.json": json.dumps(configuration, sort_keys=True).encode()},
            ),
            environment={"DRIFT_TABLE": self.table.table_name},
            description=f"tells whether what {scope.node.path} scores has drifted",
            memory_size=256,
            timeout=Duration.minutes(1),
            **unreserved,
        )
        encryption.grant(key, self.function, encryption.TABLE)
        self.table.grant(self.function, "dynamodb:Query", "dynamodb:UpdateItem")
        self.rule = events.Rule(
            self,
            "Schedule",
            description="judges the windows of a drift monitor",
            schedule=_schedule(seconds),
            targets=[targets.LambdaFunction(self.function.target)],
        )
        acknowledgments.explain(self.rule, "rule-of-last-resort")

    def on_verdict(
        self,
        id: str,
        *,
        target: events.IRuleTarget | None = None,
        verdicts: Sequence[DriftVerdict] = (),
        event_bus: events.IEventBus | None = None,
        event_pattern: events.EventPattern | None = None,
        description: str | None = None,
        rule_name: str | None = None,
    ) -> events.Rule:
        """Send an event to a target for each window that was judged.

        The event has the window, the model's version, the verdict, and all statistics with their counts. An event may
        come twice, with the same ``event_id``. The first rule lets the function that judges put these events.

        Parameters
        ----------
        id
            The id of the rule.
        target
            The target of the events, such as ``aws_events_targets.SqsQueue(queue)``. Default: none yet.
        verdicts
            ``"DRIFT"``, ``"NO_DRIFT"`` and ``"TOO_FEW_OBJECTS"``. Default: all.
        event_bus
            Where events go. It is the same for all rules of a monitor. Default: the default bus of the account.
        event_pattern
            More conditions on the event. Default: none.
        description, rule_name
            As those of CDK's rules. Default: none, and CloudFormation makes a name.

        Raises
        ------
        PropError
            A verdict does not exist, or the events go to another bus.
        """
        for verdict in verdicts:
            check_choice(get_args(DriftVerdict), verdicts=verdict)
        return rule_about(
            self,
            id,
            detail_type=VERDICT,
            detail={"verdict": verdicts},
            event_bus=self.announce(event_bus),
            target=target,
            event_pattern=event_pattern,
            description=description,
            rule_name=rule_name,
        )

    def announce(self, event_bus: events.IEventBus | None = None) -> events.IEventBus:
        """Put an event on a bus for each verdict, and return the bus.

        Parameters
        ----------
        event_bus
            As that of `on_verdict`.

        Raises
        ------
        PropError
            The events go to another bus.
        """
        if self._event_bus is not None:
            check_same_bus(self._event_bus, event_bus)
            return self._event_bus
        self._event_bus = bus = bus_of(self, event_bus)
        self.function.add_variables({"EVENT_BUS": bus.event_bus_arn})
        only = {"events:source": SOURCE, "events:detail-type": VERDICT}
        iam.Grant.add_to_principal(
            grantee=self.function,
            actions=["events:PutEvents"],
            resource_arns=[bus.event_bus_arn],
            # A request has several events. Without the second condition, one that had none would do.
            conditions={"ForAllValues:StringEquals": only, "Null": dict.fromkeys(only, "false")},
        )
        return bus

    @property
    def watched(self) -> dict[str, str]:
        """The names of the models that are watched, by route."""
        return {name: route.model.manifest.name for name, route in self._routes.items()}

    def metric_drift(
        self, *, route: str | None = None, statistic: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Measure the evidence of drift, the maximum over a window: from 1 on, the window has drifted.

        The metric is the logarithm of a probability, that the window and the baseline differ as much by chance, over
        that of its limit. It has no data for a window with too few objects: an alarm must treat missing data as not
        breaching.

        Parameters
        ----------
        route
            The route whose model it is about. Default: the only route.
        statistic
            Such as ``"image brightness"``, with `metric_per_statistic`. Default: the one with most evidence.
        **options
            As those of CDK's metrics.

        Raises
        ------
        PropError
            The route is not watched, or none is named although there are several.
        """
        if route is None and len(self._routes) == 1:
            route = next(iter(self._routes))
        if route not in self._routes:
            raise PropError(f"route must be one of {', '.join(self._routes)}, got {route}; name the one to look at")
        dimensions = {"pipeline": metrics_name(self), "model_version": self._routes[route].model.version}
        return cloudwatch.Metric(
            **{
                "namespace": "cdk-inference",
                "metric_name": "Drift",
                "dimensions_map": dimensions | ({} if statistic is None else {"statistic": statistic}),
                "statistic": cloudwatch.Stats.MAXIMUM,
                "period": self._window,
                **options,
            }
        )

    def grant_read_verdicts(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee read counts and verdicts."""
        encryption.grant(self._key, grantee, encryption.DECRYPT)
        return self.table.grant(grantee, "dynamodb:GetItem", "dynamodb:Query", "dynamodb:Scan")


def _window_seconds(window: Duration) -> int:
    if window.is_unresolved():
        raise PropError("window must be known at synth, since the schedule follows from it, got a token")
    seconds = window.to_seconds(integral=False)
    whole = seconds >= _LEAST_WINDOW and seconds % 60 == 0 and _DAY % seconds == 0
    if not whole or (_HOUR % seconds and seconds % _HOUR):
        raise PropError(
            f"window must be 5 minutes or more, and divide an hour or be whole hours that divide a day, got "
            f"{seconds / 60:g} minutes; use, for example, Duration.hours(1)"
        )
    return int(seconds)


def _schedule(seconds: int) -> events.Schedule:
    """Return the minute after each window, in UTC."""
    if seconds < _HOUR:
        return events.Schedule.cron(minute=f"{_MINUTE_AFTER}/{seconds // 60}")
    if seconds == _HOUR:
        return events.Schedule.cron(minute=str(_MINUTE_AFTER))
    return events.Schedule.cron(minute=str(_MINUTE_AFTER), hour=f"0/{seconds // _HOUR}")
