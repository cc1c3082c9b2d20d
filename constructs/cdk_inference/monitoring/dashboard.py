"""The dashboard of a pipeline: what goes through and where, how long it takes, what fails, what it costs, and drift."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from aws_cdk import Duration, Token
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from cdk_inference.common.metadata import add_metadata
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.costs.prices import Prices
from cdk_inference.monitoring.comparison import comparisons
from cdk_inference.monitoring.stages import stages_of
from cdk_inference.monitoring.widgets import WIDTH_OF_THREE, graph, log_graph, log_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.monitoring.drift import DriftMonitor
    from cdk_inference.monitoring.stages import NamedStage
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.stages.base import StageFunction
    from cdk_inference.stages.state_machine import LoggedStateMachine

_QUANTILES = (50, 95, 99)
_EXPRESS_GIB = 64 / 1024  # memory of an execution, in steps of which Step Functions bills
_SQS_REQUESTS = 1.2  # a send for each, and a receive and a delete for each ten

COLD_STARTS = (
    'filter type = "platform.report" | stats '
    "100 * count(record.metrics.initDurationMs) / count(*) as percent by bin(5m)"
)
"""Query of Logs Insights: Lambda reports cold starts in its log, and as no metric."""

VERDICTS = (
    "filter ispresent(verdict) "
    "| fields window, model_version, verdict, Drift, objects | sort @timestamp desc | limit 20"
)
"""Query of Logs Insights for what drift monitors said."""


@check_props
class PipelineDashboard(Construct):
    """The dashboard of a pipeline; made by `pipeline.add_dashboard`, which has the props.

    Attributes
    ----------
    dashboard
        CloudWatch's: add your own widgets.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        pipeline: OperatedPipeline,
        name: str | None = None,
        prices: Prices | None = None,
    ) -> None:
        super().__init__(scope, id)
        stages = stages_of(pipeline)
        self.dashboard = cloudwatch.Dashboard(
            self, "Dashboard", dashboard_name=name, default_interval=Duration.hours(3)
        )
        add_metadata(self.dashboard, "dashboard")
        self.dashboard.add_widgets(*_objects(pipeline))
        for row in comparisons(pipeline):
            self.dashboard.add_widgets(*row)
        self.dashboard.add_widgets(*_queues(pipeline))
        for row in _workflows(pipeline):
            self.dashboard.add_widgets(*row)
        for stage in stages:
            self.dashboard.add_widgets(*_stage(stage))
        cost = cost_per_thousand(pipeline, prices if prices is not None else Prices())
        self.dashboard.add_widgets(
            graph("Batch fill, percent", [_batch_fill(pipeline)], width=WIDTH_OF_THREE),
            _cold_starts(stages),
            graph("USD for 1,000 objects, without GPUs", [cost], width=WIDTH_OF_THREE),
        )
        for monitor in pipeline.drift_monitors:
            self.dashboard.add_widgets(*_drift(monitor))


def cost_per_thousand(pipeline: OperatedPipeline, prices: Prices) -> cloudwatch.MathExpression:
    """Return the estimated USD for 1,000 objects: durations and requests as measured, times list prices.

    This has functions on demand and the express workflow. Each object adds its event, messages, read, and write of up
    to 1 KB. Uploads, logs, keys, GPUs and capacity that is always on are not in it.
    """
    metrics: dict[str, cloudwatch.IMetric] = {
        "succeeded": pipeline.metric_succeeded(),
        "rejected": pipeline.metric_rejected(),
        "failed": pipeline.metric_failed(),
    }
    has_event = pipeline.trigger.undelivered_queue is not None and pipeline.trigger.objects is None
    event = prices.eventbridge_events if has_event else 0
    each = (event + _SQS_REQUESTS * prices.sqs_requests + prices.s3_gets + prices.dynamodb_writes) / 1e6
    terms = [f"objects * {_decimal(each)}"]
    if pipeline.workflow is not None:
        metrics["executions"] = pipeline.workflow.state_machine.metric_started(statistic="Sum")
        metrics["milliseconds"] = pipeline.workflow.metric_time(statistic="Sum")
        terms += [
            f"executions * {_decimal((prices.express_requests + prices.pipe_requests) / 1e6)}",
            f"milliseconds * {_decimal(prices.express_gb_seconds * _EXPRESS_GIB / 1e9)}",
        ]
    for number, function in enumerate(_functions(pipeline)):
        gib = function.memory_size / 1024
        architecture = "x86_64" if function.function.architecture.name == "x86_64" else "arm64"
        metrics[f"duration{number}"] = function.metric_duration(statistic="Sum")
        metrics[f"invocations{number}"] = function.metric_invocations()
        terms.append(f"duration{number} * {_decimal(prices.lambda_gb_second(architecture) * gib / 1000)}")
        terms.append(f"invocations{number} * {_decimal(prices.lambda_requests / 1e6)}")
    total = " + ".join(terms).replace("objects", "(succeeded + rejected + failed)")
    return cloudwatch.MathExpression(
        expression=f"IF(succeeded + rejected + failed > 0, 1000 * ({total}) / (succeeded + rejected + failed))",
        using_metrics=metrics,
        label="USD for 1,000 objects",
    )


def _decimal(value: float) -> str:
    """Return a number with six digits that count, and no exponent, whose ``e`` CDK takes for the name of a metric."""
    return f"{Decimal(f'{value:.6g}'):f}"


def _functions(pipeline: OperatedPipeline) -> Iterator[StageFunction]:
    """Yield the functions that are billed by their duration."""
    for stage in stages_of(pipeline):
        for function in stage.stage.stage_functions:
            if function.billed_by_duration and not Token.is_unresolved(function.memory_size):
                yield function


def _objects(pipeline: OperatedPipeline) -> list[cloudwatch.IWidget]:
    counts = [
        pipeline.metric_succeeded(),
        pipeline.metric_rejected(),
        pipeline.metric_failed(),
        pipeline.metric_retried(),
    ]
    if pipeline.escalates:
        counts.append(pipeline.metric_escalated())
    latency = [pipeline.metric_latency(statistic=f"p{each}", label=f"p{each}") for each in _QUANTILES]
    return [graph("Objects in 5 minutes", counts), graph("From event to row, ms", latency)]


def _queues(pipeline: OperatedPipeline) -> list[cloudwatch.IWidget]:
    trigger = pipeline.trigger
    if trigger.queue is not None:
        waiting = graph(
            "Queue: messages, and the age of the oldest in s",
            [trigger.metric_queue_depth(label="messages")],
            right=[trigger.metric_oldest_message_age(label="seconds")],
        )
    elif (age := trigger.age_metric()) is not None:
        waiting = graph("Stream: age of what was read last, in s", [age])
    else:
        failures = [trigger.metric_pipe_failed(label="failed"), trigger.metric_pipe_throttled(label="throttled")]
        waiting = graph("Stream: executions of the pipe", failures)
    objects = trigger.objects
    before = (
        []
        if objects is None
        else [
            graph(
                "Objects: messages, and the age of the oldest in s",
                [objects.metric_queue_depth(label="messages")],
                right=[objects.metric_oldest_message_age(label="seconds")],
            ),
            graph("Objects: dead letters", [objects.metric_dead_letters(label="dead letters")]),
        ]
    )
    return [
        *before,
        waiting,
        graph(
            "Dead letters and undelivered events",
            [
                trigger.metric_dead_letters(label="dead letters"),
                *([trigger.metric_undelivered(label="undelivered")] if trigger.undelivered_queue else []),
            ],
        ),
    ]


def _workflows(pipeline: OperatedPipeline) -> Iterator[list[cloudwatch.IWidget]]:
    splitting = pipeline.trigger.workflow
    if splitting is not None:
        yield [_times("Splitting of large objects, ms", splitting), graph("Splitting: failures", _failures(splitting))]
    workflow = pipeline.workflow
    throttled = pipeline.results.metric_throttled_writes(label="throttled writes")
    if workflow is None:
        yield [graph("Table: throttled writes", [throttled])]
        return
    yield [
        _times("Workflow, ms", workflow),
        graph("Workflow: failures; table: throttled writes", [*_failures(workflow), throttled]),
    ]
    for name, stages in pipeline.routes.items():
        waiting: LoggedStateMachine | None = getattr(stages, "gpu_workflow", None)
        if waiting is not None:
            of = f" of {name}" if len(pipeline.routes) > 1 else ""
            yield [
                _times(f"GPU workflow{of}, waiting included, ms", waiting),
                graph(f"GPU workflow{of}: failures", _failures(waiting)),
            ]


def _times(title: str, workflow: LoggedStateMachine) -> cloudwatch.IWidget:
    return graph(title, [workflow.metric_time(statistic=f"p{each}", label=f"p{each}") for each in _QUANTILES])


def _failures(workflow: LoggedStateMachine) -> list[cloudwatch.IMetric]:
    return [workflow.metric_failed(label="failed"), workflow.metric_timed_out(label="timed out")]


def _drift(monitor: DriftMonitor) -> list[cloudwatch.IWidget]:
    evidence = [monitor.metric_drift(route=route, label=f"{monitor.node.id} {route}") for route in monitor.watched]
    limit = cloudwatch.HorizontalAnnotation(value=1, label="drift")
    verdicts = log_table("Drift: verdicts", [monitor.function.log_group.log_group_name], VERDICTS)
    return [graph("Drift", evidence, left_annotations=[limit]), verdicts]


def _stage(stage: NamedStage) -> list[cloudwatch.IWidget]:
    label = stage.label.capitalize()
    durations = [stage.stage.metric_duration(statistic=f"p{each}", label=f"p{each}") for each in _QUANTILES]
    counts = [stage.stage.metric_invocations(), stage.stage.metric_errors(), stage.stage.metric_throttles()]
    return [graph(f"{label}, ms", durations), graph(f"{label}: invocations, errors, throttles", counts)]


def _batch_fill(pipeline: OperatedPipeline) -> cloudwatch.MathExpression:
    """Return how full batches are: rows of an invocation that writes them, as percent of the most."""
    writing = [each.output_stage for each in pipeline.routes.values()]
    invocations = {f"i{number}": each.metric_invocations() for number, each in enumerate(writing)}
    total = " + ".join(invocations)
    return cloudwatch.MathExpression(
        expression=f"IF({total} > 0, 100 * (s + r + f) / ({total}) / {pipeline.trigger.batch_size})",
        using_metrics={
            "s": pipeline.metric_succeeded(),
            "r": pipeline.metric_rejected(),
            "f": pipeline.metric_failed(),
            **invocations,
        },
        label="batch fill",
    )


def _cold_starts(stages: Sequence[NamedStage]) -> cloudwatch.IWidget:
    groups = dict.fromkeys(
        function.log_group.log_group_name for stage in stages for function in stage.stage.stage_functions
    )
    return log_graph("Cold starts, percent of invocations", list(groups), COLD_STARTS, width=WIDTH_OF_THREE)
