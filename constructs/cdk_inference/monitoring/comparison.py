"""Widgets that compare the routes of a pipeline, the variants of an experiment, and the two models of a release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_cloudwatch as cloudwatch

from cdk_inference.monitoring.widgets import graph, log_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.releases.control import ReleaseControl

DECISIONS = (
    "filter ispresent(decision) | fields @timestamp, decision, step, reason, release | sort @timestamp desc | limit 20"
)
"""Query of Logs Insights for what the judge of a release said."""


def comparisons(pipeline: OperatedPipeline) -> Iterator[list[cloudwatch.IWidget]]:
    """Yield the rows of widgets of routes, variants and a release; none where there is one route."""
    pairs = pipeline.routes_and_variants
    routes = list(dict.fromkeys(route for route, _ in pairs))
    variants = list(dict.fromkeys(variant for _, variant in pairs if variant is not None))
    # Where each variant is a route, as in a release, the metrics of both would be the same, and billed twice.
    if len(routes) > 1 and not len(pairs) == len(routes) == len(variants):
        yield from _compared(pipeline, "route", routes)
    if len(variants) > 1:
        yield from _compared(pipeline, "variant", variants)
    if pipeline.release is not None:
        yield _release(pipeline.release)


def _compared(pipeline: OperatedPipeline, by: str, names: list[str]) -> Iterator[list[cloudwatch.IWidget]]:
    objects: dict[str, cloudwatch.IMetric] = {}
    shares: list[cloudwatch.IMetric] = []
    errors: list[cloudwatch.IMetric] = []
    latency: list[cloudwatch.IMetric] = []
    for number, name in enumerate(names):
        one = {by: name}
        s, r, f = f"s{number}", f"r{number}", f"f{number}"  # unique among the metrics of a widget
        counts: dict[str, cloudwatch.IMetric] = {
            s: pipeline.metric_succeeded(**one),
            r: pipeline.metric_rejected(**one),
            f: pipeline.metric_failed(**one),
        }
        total = f"({s} + {r} + {f})"
        objects[f"n{number}"] = cloudwatch.MathExpression(expression=total, using_metrics=counts, label=name)
        errors.append(
            cloudwatch.MathExpression(
                expression=f"IF({total} > 0, 100 * ({r} + {f}) / {total})", using_metrics=counts, label=name
            )
        )
        latency.append(pipeline.metric_latency(**one, label=name))
    # A route without objects records nothing, and no sum has data of which a part is missing.
    total = " + ".join(f"FILL({each}, 0)" for each in objects)
    for each, name in zip(objects, names, strict=True):
        shares.append(
            cloudwatch.MathExpression(
                expression=f"IF({total} > 0, 100 * FILL({each}, 0) / ({total}))", using_metrics=objects, label=name
            )
        )
    yield [graph(f"Objects by {by}", list(objects.values())), graph(f"Share of objects by {by}, percent", shares)]
    yield [
        graph(f"From event to row by {by}, p95 in ms", latency),
        graph(f"Rejected and failed by {by}, percent", errors),
    ]


def _release(release: ReleaseControl) -> list[cloudwatch.IWidget]:
    decisions = log_table("Release: decisions", [release.stepper.judge.log_group.log_group_name], DECISIONS)
    if not release.arms.answers:  # a shadow has no share
        return [decisions]
    share = graph(
        "Release: share of the candidate, percent; releases aborted",
        [release.metric_share(label="share")],
        right=[release.stepper.metric_failed(label="aborted")],
    )
    return [share, decisions]
