"""The kinds of widgets that a dashboard has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import aws_cloudwatch as cloudwatch

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, WIDTH_OF_THREE, HEIGHT = 12, 8, 6  # two or three widgets are next to each other in 24 columns


def graph(
    title: str,
    left: Sequence[cloudwatch.IMetric],
    *,
    right: Sequence[cloudwatch.IMetric] | None = None,
    left_annotations: Sequence[cloudwatch.HorizontalAnnotation] | None = None,
    width: int = WIDTH,
) -> cloudwatch.GraphWidget:
    """Return a graph of metrics over time, from 0 on."""
    return cloudwatch.GraphWidget(
        title=title,
        left=list(left),
        right=list(right) if right is not None else None,
        left_annotations=list(left_annotations) if left_annotations is not None else None,
        left_y_axis=cloudwatch.YAxisProps(min=0),
        width=width,
        height=HEIGHT,
    )


def log_graph(title: str, groups: Sequence[str], query: str, *, width: int = WIDTH) -> cloudwatch.LogQueryWidget:
    """Return a graph of what a query finds in log groups."""
    return _query(title, groups, query, cloudwatch.LogQueryVisualizationType.LINE, width)


def log_table(title: str, groups: Sequence[str], query: str) -> cloudwatch.LogQueryWidget:
    """Return a table of what a query finds in log groups."""
    return _query(title, groups, query, cloudwatch.LogQueryVisualizationType.TABLE, WIDTH)


def _query(
    title: str, groups: Sequence[str], query: str, view: cloudwatch.LogQueryVisualizationType, width: int
) -> cloudwatch.LogQueryWidget:
    return cloudwatch.LogQueryWidget(
        title=title, log_group_names=list(groups), query_string=query, view=view, width=width, height=HEIGHT
    )
