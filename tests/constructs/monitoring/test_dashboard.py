"""The dashboard and the alarms of a pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from aws_cdk.assertions import Template
from tests.constructs.conftest import resources

from cdk_inference import (
    Capacity,
    Execution,
    Inference,
    InferencePipeline,
    ModelArtifact,
    Preprocess,
    PropError,
    Route,
    Routing,
)
from cdk_inference.costs import Prices
from cdk_inference.monitoring.dashboard import cost_per_thousand

if TYPE_CHECKING:
    from collections.abc import Callable

RUNBOOK = Path(__file__).parents[3] / "docs" / "operate" / "runbook.md"


def widgets(stack: cdk.Stack) -> list[dict[str, Any]]:
    """Return the widgets of the dashboard, with a letter for each reference."""
    (dashboard,) = resources(stack, "AWS::CloudWatch::Dashboard").values()
    body = dashboard["Properties"]["DashboardBody"]
    text = "".join(part if isinstance(part, str) else "X" for part in body["Fn::Join"][1])
    found: list[dict[str, Any]] = json.loads(text)["widgets"]
    return found


def titles(stack: cdk.Stack) -> list[str]:
    return [widget["properties"]["title"] for widget in widgets(stack)]


def alarms(stack: cdk.Stack) -> dict[str, Any]:
    return {
        re.sub(r"^PhotosAlarms|[0-9A-F]{8}$", "", name): alarm["Properties"]
        for name, alarm in resources(stack, "AWS::CloudWatch::Alarm").items()
    }


def test_the_dashboard_shows_each_stage(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    pipeline().add_dashboard()
    assert titles(stack) == [
        "Objects in 5 minutes",
        "From event to row, ms",
        "Queue: messages, and the age of the oldest in s",
        "Dead letters and undelivered events",
        "Workflow, ms",
        "Workflow: failures; table: throttled writes",
        "Preprocess, ms",
        "Preprocess: invocations, errors, throttles",
        "Inference, ms",
        "Inference: invocations, errors, throttles",
        "Postprocess, ms",
        "Postprocess: invocations, errors, throttles",
        "Batch fill, percent",
        "Cold starts, percent of invocations",
        "USD for 1,000 objects, without GPUs",
    ]


def test_widgets_do_not_overlap(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    made.add_drift_monitor()
    made.add_dashboard()
    places = [(w["x"], w["y"], w["width"], w["height"]) for w in widgets(stack)]
    cells = [(x + dx, y + dy) for x, y, width, height in places for dx in range(width) for dy in range(height)]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert titles(stack)[-2:] == ["Drift", "Drift: verdicts"]


def test_routes_and_fused_functions_are_named(stack: cdk.Stack, model: ModelArtifact) -> None:
    routes = {
        name: (50.0, Route(name, model=model, preprocess=Preprocess.image(size=224))) for name in ("small", "large")
    }
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.split(routes), execution=Execution.fused())
    pipeline.add_dashboard()
    pipeline.add_alarms()
    assert {"Score of small, ms", "Score of large, ms"} <= set(titles(stack))
    assert {"smallScoreThrottled", "largeScoreThrottled"} <= alarms(stack).keys()


def test_a_gpu_has_its_alarms_and_widgets(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline(inference=Inference.gpu())
    made.add_alarms()
    made.add_dashboard()
    assert "mainGpuWorkflowFails" in alarms(stack)
    assert {"GPU workflow, waiting included, ms", "GPU workflow: failures"} <= set(titles(stack))


def test_the_costs_of_a_thousand_objects_are_those_of_the_prices(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    """1,000 objects in 50 batches: the sum by hand, and that of the expression."""
    prices = Prices()
    found = cost_per_thousand(pipeline(), prices)
    measured = {"succeeded": 990, "rejected": 6, "failed": 4, "executions": 50, "milliseconds": 100_000}
    measured |= {f"invocations{number}": 50 for number in range(3)} | {
        f"duration{number}": 20_000 for number in range(3)
    }
    assert found.using_metrics.keys() == measured.keys()
    expression = re.fullmatch(r"IF\((.+) > 0, (.+)\)", found.expression)
    assert expression is not None
    assert set(re.findall(r"[A-Za-z_]\w*", expression[2])) == measured.keys()  # CDK warns of others, as of an exponent
    seconds = 20 * (1769 + 1769 + 1024) / 1024
    expected = (
        1000 * (prices.eventbridge_events + 1.2 * prices.sqs_requests + prices.s3_gets + prices.dynamodb_writes) / 1e6
        + 50 * (prices.express_requests + prices.pipe_requests) / 1e6
        + 100 * prices.express_gb_seconds / 16 / 1e6
        + seconds * prices.lambda_arm64 / 1e6
        + 150 * prices.lambda_requests / 1e6
    )
    estimated = eval(expression[2], {}, measured)  # noqa: S307 (our own expression, which is also one of Python)
    assert estimated == pytest.approx(expected, rel=1e-4)


def test_capacity_that_is_always_on_is_not_billed_by_duration(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    made = pipeline(inference=Inference.cpu(capacity=Capacity.provisioned(min_capacity=1)))
    assert "duration1" in (found := cost_per_thousand(made, Prices())).using_metrics
    assert "duration2" not in found.using_metrics


@pytest.fixture
def all_alarms(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> dict[str, Any]:
    made = pipeline()
    made.add_drift_monitor()
    made.add_alarms()
    return alarms(stack)


def test_every_alarm_says_why_and_its_section_is_in_the_runbook(all_alarms: dict[str, Any]) -> None:
    text = RUNBOOK.read_text("utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    named = {"objects-that-cannot-be-taken-apart"}  # see the test of the trigger for them
    for name, alarm in all_alarms.items():
        description = re.fullmatch(
            r"(?P<reason>[^.]+)\. Threshold: (?P<source>.+)\. What to do: docs/operate/runbook\.md#(?P<section>\S+)",
            alarm["AlarmDescription"],
        )
        assert description is not None, name
        assert description["section"] in anchors, name
        named.add(description["section"])
        assert alarm["TreatMissingData"] == "notBreaching"
        assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    assert anchors == named, "sections without an alarm, or the other way round"


def test_the_alarms_of_a_pipeline(all_alarms: dict[str, Any]) -> None:
    stages = [
        f"{stage}{what}" for stage in ("Preprocess", "Inference", "Postprocess") for what in ("Throttled", "Fails")
    ]
    assert all_alarms.keys() == {
        "FailedResults",
        "Rejected",
        "SlowResults",
        "DeadLetters",
        "Undelivered",
        "OldMessages",
        "WorkflowFails",
        "WorkflowTimesOut",
        "ThrottledWrites",
        *stages,
        "Driftmain",
    }
    assert all_alarms["Driftmain"]["EvaluationPeriods"] == 2
    assert all_alarms["SlowResults"]["Threshold"] == 300_000
    assert all_alarms["OldMessages"]["Threshold"] == 900


def test_alarms_notify_a_topic_and_do_what_else_is_asked(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    made = pipeline().add_alarms(
        topic=sns.Topic(stack, "Topic"),
        actions=[actions.SnsAction(sns.Topic(stack, "Other"))],
        max_latency=cdk.Duration.seconds(10),
        max_rejected_share=0.5,
        runbook="https://example.com/runbook",
    )
    found = alarms(stack)
    assert {len(alarm["AlarmActions"]) for alarm in found.values()} == {2}
    assert found["SlowResults"]["Threshold"] == 10_000
    assert found["Rejected"]["Threshold"] == 0.5
    assert found["DeadLetters"]["AlarmDescription"].endswith("https://example.com/runbook#dead-letters")
    assert made.alarms.keys() == found.keys()


def test_a_share_that_is_none_fails(pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    with pytest.raises(PropError, match="max_rejected_share must be a share, from 0 to 1, got 20"):
        made.add_alarms(max_rejected_share=20.0)


def test_the_template_is_valid(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    made.add_alarms()
    made.add_dashboard(name="photos")
    template = Template.from_stack(stack)
    template.has_resource_properties("AWS::CloudWatch::Dashboard", {"DashboardName": "photos"})
    expressions = [
        metric["Expression"]
        for alarm in alarms(stack).values()
        for metric in alarm.get("Metrics", [])
        if "Expression" in metric
    ]
    assert len(expressions) == 7
    assert all(len(expression) <= 1024 for expression in expressions)
