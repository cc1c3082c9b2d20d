"""Metrics and widgets of routes, variants and releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.constructs.conftest import RECIPE, resources
from tests.constructs.monitoring.test_dashboard import titles, widgets

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess, PropError, Release, Route, Routing

if TYPE_CHECKING:
    from collections.abc import Callable

    import aws_cdk as cdk

    Routed = Callable[[Any], InferencePipeline]


@pytest.fixture
def small(model: ModelArtifact) -> Route:
    return Route("small", model=model, preprocess=Preprocess.image(size=224))


@pytest.fixture
def large(model: ModelArtifact) -> Route:
    return Route("large", model=model, preprocess=Preprocess.image(size=224))


@pytest.fixture
def routed(stack: cdk.Stack) -> Routed:
    return lambda routing: InferencePipeline(stack, "Photos", routing=routing)


def recorded(stack: cdk.Stack) -> dict[str, set[str]]:
    """Return what each function records metrics by, by the beginning of its description, where it is anything."""
    found = {}
    for function in resources(stack, "AWS::Lambda::Function").values():
        variables = function["Properties"]["Environment"]["Variables"]
        by = {name for name in variables if name in ("ROUTE_METRICS", "VARIANT_METRICS")}
        if by:
            found[variables["STAGE_FUNCTION"].split(".")[-1].split(":")[0]] = by
    return found


def dimensions(stack: cdk.Stack, metric: Any) -> dict[str, str]:
    found = stack.resolve(metric.to_metric_config().metric_stat)
    return {each["name"]: each["value"] for each in found["dimensions"]}


def test_asking_for_the_metric_of_a_route_has_it_recorded(
    stack: cdk.Stack, routed: Routed, small: Route, large: Route
) -> None:
    pipeline = routed(Routing.split({"à gauche": (1, small), "b": (1, large)}))
    assert dimensions(stack, pipeline.metric_succeeded()) == {"pipeline": "Stack/Photos"}
    assert recorded(stack) == {}
    found = pipeline.metric_succeeded(route="large", label="seen")
    assert dimensions(stack, found) == {"pipeline": "Stack/Photos", "route": "large"}
    assert found.label == "seen"


def test_asking_for_the_metric_of_a_variant_has_it_recorded_as_ascii(
    stack: cdk.Stack, routed: Routed, small: Route, large: Route
) -> None:
    pipeline = routed(Routing.split({"à gauche": (1, small), "b": (1, large)}))
    assert dimensions(stack, pipeline.metric_latency(variant="à gauche"))["variant"] == "\\xe0 gauche"
    assert recorded(stack) == {"outputs": {"VARIANT_METRICS"}}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"route": "larg"}, "route must be one of small, large, got 'larg'"),
        ({"variant": "b"}, "variant must be left out, since the pipeline has no variants, got 'b'"),
        ({"route": "small", "variant": "b"}, "variant must be left out with route, got 'b' and 'small'; name one"),
    ],
)
def test_a_metric_of_an_unknown_route_or_variant_fails(
    routed: Routed, small: Route, large: Route, asked: dict[str, str], message: str
) -> None:
    pipeline = routed(Routing.by_size(limit=100, below=small, otherwise=large))
    with pytest.raises(PropError) as raised:
        pipeline.metric_failed(**asked)
    assert str(raised.value) == message


def test_a_metric_of_a_route_of_a_pipeline_without_routing_fails(pipeline: Callable[..., InferencePipeline]) -> None:
    with pytest.raises(PropError, match="route must be left out, since the pipeline has no routes, got 'main'"):
        pipeline().metric_failed(route="main")


def test_the_dashboard_compares_routes(stack: cdk.Stack, routed: Routed, small: Route, large: Route) -> None:
    routed(Routing.by_size(limit=100, below=small, otherwise=large)).add_dashboard()
    assert titles(stack)[2:6] == [
        "Objects by route",
        "Share of objects by route, percent",
        "From event to row by route, p95 in ms",
        "Rejected and failed by route, percent",
    ]
    assert not any("variant" in title for title in titles(stack))
    assert recorded(stack) == {"outputs": {"ROUTE_METRICS"}}
    share = widgets(stack)[3]["properties"]["metrics"]
    shown = [last for *_, last in share if isinstance(last, dict) and last.get("visible") is not False]
    total = "FILL(n0, 0) + FILL(n1, 0)"
    assert [(one["label"], one["expression"]) for one in shown] == [
        ("small", f"IF({total} > 0, 100 * FILL(n0, 0) / ({total}))"),
        ("large", f"IF({total} > 0, 100 * FILL(n1, 0) / ({total}))"),
    ]


def test_a_cascade_in_a_split_has_routes_and_variants(
    stack: cdk.Stack, routed: Routed, small: Route, large: Route
) -> None:
    cascade = Routing.cascade(first=small, then=large, threshold=0.5)
    pipeline = routed(Routing.split({"one": (9, large), "two": (1, cascade)}))
    pipeline.add_dashboard()
    assert {"Objects by route", "Objects by variant"} <= set(titles(stack))
    assert recorded(stack) == {"outputs": {"ROUTE_METRICS", "VARIANT_METRICS"}}
    assert set(pipeline.routes_and_variants) == {("large", "one"), ("large", "two"), ("small", "two")}


def test_the_dashboard_of_a_release_has_each_arm_once_and_the_decisions(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    candidate = Route("new", model=ModelArtifact(stack, "New", recipe=RECIPE), preprocess=Preprocess.image(size=224))
    made = pipeline(release=Release.canary(candidate=candidate))
    made.add_dashboard()
    shown = titles(stack)
    assert shown[2:8] == [
        "Objects by variant",
        "Share of objects by variant, percent",
        "From event to row by variant, p95 in ms",
        "Rejected and failed by variant, percent",
        "Release: share of the candidate, percent; releases aborted",
        "Release: decisions",
    ]
    assert "Objects by route" not in shown  # an arm is a route
    assert made.routes_and_variants == [("main", "stable"), ("new", "candidate")]
    assert recorded(stack) == {"outputs": {"VARIANT_METRICS"}}
    assert made.release is not None
    assert dimensions(stack, made.release.metric_share()) == {"pipeline": "Stack/Photos"}


def test_the_dashboard_of_a_shadow_compares_no_rows(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    candidate = Route("new", model=ModelArtifact(stack, "New", recipe=RECIPE), preprocess=Preprocess.image(size=224))
    made = pipeline(release=Release.shadow(candidate, 10))
    made.add_dashboard()
    assert made.routes_and_variants == [("main", None)]
    assert titles(stack)[2] == "Release: decisions"
    assert recorded(stack) == {}
