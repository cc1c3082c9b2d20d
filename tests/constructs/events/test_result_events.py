"""The template of result events, and what they refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from aws_cdk.assertions import Template
from tests.constructs.conftest import resources

from cdk_inference import InferencePipeline, PropError, ResultsTable, result_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

ARN = "arn:aws:dynamodb:eu-west-1:111111111111:table/results"
STREAM = f"{ARN}/stream/2026-01-01T00:00:00.000"


def only(stack: cdk.Stack, kind: str, part: str = "") -> dict[str, Any]:
    (found,) = (each["Properties"] for name, each in resources(stack, kind).items() if part in name)
    return found


def test_rows_go_from_the_stream_to_the_bus_without_what_they_contain(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().on_result("Every")
    pipe = only(stack, "AWS::Pipes::Pipe", "Events")
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable")
    assert pipe["Source"] == {"Fn::GetAtt": [table, "StreamArn"]}
    assert "event-bus/default" in json.dumps(pipe["Target"])
    assert pipe["SourceParameters"]["DynamoDBStreamParameters"]["BatchSize"] == 10
    (pattern,) = pipe["SourceParameters"]["FilterCriteria"]["Filters"]
    assert json.loads(pattern["Pattern"]) == {"eventName": ["INSERT", "MODIFY"]}
    target = pipe["TargetParameters"]
    assert target["EventBridgeEventBusParameters"] == {
        "Source": "cdk-inference",
        "DetailType": "Inference Result",
        "Resources": [{"Fn::GetAtt": [table, "Arn"]}],
    }
    detail = json.loads(target["InputTemplate"])
    assert not {"prediction", "reason", "first", "confidence"} & set(detail)
    assert all(value.startswith("<$.") for value in detail.values())


def test_the_pipe_may_read_the_stream_put_events_and_report_failures(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().on_result("Every")
    (role,) = (r["Properties"] for name, r in resources(stack, "AWS::IAM::Role").items() if "Events" in name)
    statements = role["Policies"][0]["PolicyDocument"]["Statement"]
    stream, bus, queue = (statement["Resource"] for statement in statements)
    assert stream["Fn::GetAtt"][1] == "StreamArn"
    assert "event-bus/default" in json.dumps(bus)
    assert "DeadLetterQueue" in queue["Fn::GetAtt"][0]
    assert not any("*" in json.dumps(statement) for statement in statements)


def test_two_pipelines_with_one_table_have_one_pipe_and_each_its_own_events(stack: cdk.Stack, model: Any) -> None:
    from cdk_inference import Preprocess

    results = ResultsTable(stack, "Results")
    for name in ("First", "Second"):
        made = InferencePipeline(
            stack, name, model=model, preprocess=Preprocess.image(size=224), results=results, prefix=f"{name}/"
        )
        made.on_result("Every", statuses=["FAILED"], event_pattern=events.EventPattern(account=["111111111111"]))
    assert len([name for name in resources(stack, "AWS::Pipes::Pipe") if "Events" in name]) == 1
    patterns = [
        each["Properties"]["EventPattern"]
        for name, each in resources(stack, "AWS::Events::Rule").items()
        if "Every" in name
    ]
    assert [pattern["detail"]["key"] for pattern in patterns] == [[{"prefix": "First/"}], [{"prefix": "Second/"}]]
    assert all(pattern["detail"]["status"] == ["FAILED"] for pattern in patterns)
    assert all(pattern["account"] == ["111111111111"] for pattern in patterns)


def test_a_rule_is_on_the_bus_that_gets_the_events(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    bus, made = events.EventBus(stack, "Bus"), pipeline()
    rule = made.on_result("Every", event_bus=bus, target=targets.SqsQueue(sqs.Queue(stack, "Queue")))
    made.on_result("Again")
    assert isinstance(rule, events.Rule)
    (name,) = resources(stack, "AWS::Events::EventBus")
    for part in ("Every", "Again"):
        assert only(stack, "AWS::Events::Rule", part)["EventBusName"] == {"Ref": name}
    assert only(stack, "AWS::Pipes::Pipe", "Events")["Target"] == {"Fn::GetAtt": [name, "Arn"]}
    with pytest.raises(
        PropError, match="event_bus must be the same for all rules of these events, got Stack/Other after"
    ):
        made.on_result("Third", event_bus=events.EventBus(stack, "Other"))


def test_a_pipeline_whose_results_nobody_wants_has_no_stream(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline()
    assert "Stream" not in json.dumps(resources(stack, "AWS::DynamoDB::GlobalTable"))
    assert len(resources(stack, "AWS::Pipes::Pipe")) == 1


def test_an_imported_table_makes_events_of_the_stream_that_it_is_given(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    results = ResultsTable.from_table_attributes(stack, "Imported", table_arn=ARN, table_stream_arn=STREAM)
    pipeline(results=results).on_result("Every")
    assert only(stack, "AWS::Pipes::Pipe", "Events")["Source"] == STREAM


def test_an_imported_table_without_its_stream_fails(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    made = pipeline(results=ResultsTable.from_table_arn(stack, "Imported", ARN))
    with pytest.raises(PropError, match="table_stream_arn of the imported table Stack/Imported must be set"):
        made.on_result("Every")


def test_a_status_or_a_route_that_does_not_exist_fails(pipeline: Callable[..., InferencePipeline]) -> None:
    made = pipeline()
    with pytest.raises(PropError, match="statuses"):
        made.on_result("Done", statuses=["DONE"])
    with pytest.raises(PropError, match="routes must be of main, got 'other'"):
        made.on_result("Other", routes=["other"])


def test_a_bus_of_another_region_fails(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    here = cdk.Stack(stack.node.root, "Here", env=cdk.Environment(account="111111111111", region="eu-west-1"))
    results = ResultsTable(here, "Results")
    from cdk_inference import ResultEvents

    far = events.EventBus.from_event_bus_arn(here, "Far", "arn:aws:events:us-east-1:111111111111:event-bus/far")
    with pytest.raises(PropError, match="event_bus must be in the Region of stack 'Here', eu-west-1, got one in us"):
        ResultEvents(here, "Events", results=results, event_bus=far)


def test_a_rule_of_another_stack_may_use_the_pattern(stack: cdk.Stack) -> None:
    pattern = result_pattern(statuses=["REJECTED"], buckets=["inbox"], prefix="in/", tables=[ARN], routes=["large"])
    events.Rule(stack, "Rule", event_pattern=pattern)
    Template.from_stack(stack).has_resource_properties(
        "AWS::Events::Rule",
        {
            "EventPattern": {
                "source": ["cdk-inference"],
                "detail-type": ["Inference Result"],
                "resources": [ARN],
                "detail": {
                    "status": ["REJECTED"],
                    "route": ["large"],
                    "bucket": ["inbox"],
                    "key": [{"prefix": "in/"}],
                },
            }
        },
    )
