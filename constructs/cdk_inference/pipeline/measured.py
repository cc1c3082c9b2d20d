"""The metrics of a pipeline: of all objects, or of those of a route or a variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from cdk_inference.common.metadata import metrics_name
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.pipeline.execution_strategy import RouteStages
    from cdk_inference.routing.plan import RoutePlan
    from cdk_inference.triggers.base import ITrigger

METRIC_NAMESPACE = "cdk-inference"


@check_props
class MeasuredPipeline(Construct):
    """A pipeline with its metrics; see `InferencePipeline`."""

    trigger: ITrigger
    routes: Mapping[str, RouteStages]
    _plan: RoutePlan
    _routed: bool

    @property
    def escalates(self) -> bool:
        """Whether a cascade passes objects on."""
        return any(planned.escalation is not None for planned in self._plan.planned.values())

    @property
    def routes_and_variants(self) -> list[tuple[str, str | None]]:
        """The pairs of route and variant that rows may have; none without a routing or a release.

        Variants are the labels of `Routing.split`, or the two arms of a release. The candidate of a shadow release has
        no rows.
        """
        return self._plan.routes_and_variants if self._routed else []

    def metric(
        self, name: str, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Return a metric that the postprocessing function records for this pipeline, as a sum over 5 minutes.

        Without a route and a variant, a metric counts all objects. Once you ask for a metric of a route, the functions
        record all metrics for each route. The same goes for variants. CloudWatch bills each metric, at 0.30 USD a
        month.

        Parameters
        ----------
        name
            The name of the metric, such as ``"Succeeded"``.
        route
            Count only what this route answered. Default: all routes.
        variant
            Count only the objects of this variant: a label of `Routing.split`, or ``"stable"`` or ``"candidate"`` of a
            release. Default: all objects.
        **options
            As those of CDK's metrics.

        Raises
        ------
        PropError
            The route or the variant does not exist, or both are given.
        """
        if route is not None and variant is not None:
            raise PropError(f"variant must be left out with route, got '{variant}' and '{route}'; name one")
        dimensions = {"pipeline": metrics_name(self)}
        if route is not None:
            dimensions["route"] = self._recorded("route", route)
        if variant is not None:
            dimensions["variant"] = self._recorded("variant", variant)
        return cloudwatch.Metric(
            **{
                "namespace": METRIC_NAMESPACE,
                "metric_name": name,
                "dimensions_map": dimensions,
                "statistic": cloudwatch.Stats.SUM,
                "period": Duration.minutes(5),
                **options,
            }
        )

    def _recorded(self, dimension: str, value: str) -> str:
        """Have the functions record metrics by a dimension, and return the value as they do."""
        place = ("route", "variant").index(dimension)
        known = dict.fromkeys(name for pair in self.routes_and_variants if (name := pair[place]) is not None)
        if value not in known:
            names = ", ".join(known) or f"left out, since the pipeline has no {dimension}s"
            raise PropError(f"{dimension} must be {'one of ' if known else ''}{names}, got '{value}'")
        for stages in self.routes.values():
            stages.output_stage.add_variables({f"{dimension.upper()}_METRICS": "1"})
        return value.encode("ascii", "backslashreplace").decode()  # CloudWatch takes ASCII only

    def metric_succeeded(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Count the objects that got a prediction, as a sum over 5 minutes; for parameters, see `metric`."""
        return self.metric("Succeeded", route=route, variant=variant, **options)

    def metric_rejected(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Count the objects that were refused for what they contain, as a sum over 5 minutes; see `metric`."""
        return self.metric("Rejected", route=route, variant=variant, **options)

    def metric_failed(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Count the objects for which no valid result came out, as a sum over 5 minutes; see `metric`."""
        return self.metric("Failed", route=route, variant=variant, **options)

    def metric_retried(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Count the objects that postprocessing gave back to the queue, as a sum over 5 minutes; see `metric`."""
        return self.metric("Retried", route=route, variant=variant, **options)

    def metric_escalated(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Count the objects that a cascade's first model was not sure of, as a sum over 5 minutes; see `metric`."""
        return self.metric("Escalated", route=route, variant=variant, **options)

    def metric_latency(
        self, *, route: str | None = None, variant: str | None = None, **options: Any
    ) -> cloudwatch.Metric:
        """Measure the milliseconds from an object's event to its row, the 95th percentile over 5 minutes.

        For parameters, see `metric`.
        """
        return self.metric("Latency", route=route, variant=variant, **{"statistic": cloudwatch.Stats.p(95), **options})

    def metric_undelivered(self, **options: Any) -> cloudwatch.Metric:
        """Count the events that EventBridge could not deliver to the queue, the maximum over 5 minutes."""
        return self.trigger.metric_undelivered(**options)

    def metric_dead_letters(self, **options: Any) -> cloudwatch.Metric:
        """Count the messages in the dead-letter queue, the maximum over 5 minutes."""
        return self.trigger.metric_dead_letters(**options)
