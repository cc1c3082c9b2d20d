"""The direct pipeline: its template, what it refuses, and that no wildcard is in its policies."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk.assertions import Template
from tests.constructs.conftest import resources

from cdk_inference import (
    DirectPipeline,
    EdgeInput,
    Inference,
    InferencePipeline,
    Preprocess,
    PropError,
    QueueTrigger,
    Route,
    S3NotificationTrigger,
    S3Trigger,
)


@pytest.fixture
def direct(stack, model):
    def make(**props: Any) -> DirectPipeline:
        return DirectPipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), **props)

    return make


def variables_of(stack):
    functions = [one["Properties"] for one in resources(stack, "AWS::Lambda::Function").values()]
    (function,) = [one for one in functions if "Environment" in one]
    return function["Environment"]["Variables"]


def test_the_whole_template(stack, direct, snapshot_json):
    pipeline = direct(prefix="in/", suffixes=[".jpg", ".png"], max_concurrency=5)
    assert Template.from_stack(stack).to_json() == snapshot_json
    assert pipeline.workflow is None
    kinds = {one["Type"] for one in Template.from_stack(stack).to_json()["Resources"].values()}
    for absent in ("AWS::Pipes::Pipe", "AWS::StepFunctions::StateMachine", "AWS::Events::Rule"):
        assert absent not in kinds


def test_it_is_watched_like_any_pipeline(stack, direct):
    pipeline = direct()
    pipeline.add_alarms()
    pipeline.add_dashboard()
    pipeline.on_result("Told")
    alarms = [name for name in resources(stack, "AWS::CloudWatch::Alarm") if "Workflow" in name or "Undeliv" in name]
    assert alarms == []


def test_devices_send_to_it(stack, direct, model):
    pipeline = direct()
    route = Route("tiny", model=model, preprocess=Preprocess.image(size=224))
    cameras = pipeline.add_edge(route=route, inputs=[EdgeInput.folder("/var/lib/camera")], threshold=0.5)
    cameras.grant_device(iam.User(stack, "Camera"))
    policies = resources(stack, "AWS::IAM::Policy")
    (camera,) = [one["Properties"]["PolicyDocument"] for name, one in policies.items() if name.startswith("Camera")]
    (puts,) = [one["Resource"] for one in camera["Statement"] if "s3:PutObject" in one["Action"]]
    assert stack.resolve(pipeline.trigger.bucket.bucket_arn) == puts["Fn::Join"][1][0]
    assert puts["Fn::Join"][1][1].startswith("/edge/")


@pytest.mark.parametrize("kind", [QueueTrigger, S3Trigger])
def test_it_takes_the_messages_of_other_triggers(stack, direct, kind):
    pipeline = direct(trigger=kind(stack, "Given"))
    (mapping,) = resources(stack, "AWS::Lambda::EventSourceMapping").values()
    assert mapping["Properties"]["EventSourceArn"] == stack.resolve(pipeline.trigger.queue.queue_arn)
    assert mapping["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    variables = variables_of(stack)
    assert ("ITEM_ID" in variables) == (kind is QueueTrigger)


def test_paths_of_a_queue_reach_the_function(stack, direct):
    direct(trigger=QueueTrigger(stack, "Given", item_id="$.order.ids[0].n", sequence="$.v"))
    variables = variables_of(stack)
    assert (variables["ITEM_ID"], variables["ITEM_SEQUENCE"]) == ("order.ids.0.n", "v")


def test_only_this_account_may_notify(stack, direct):
    direct()
    statements = [
        statement
        for policy in resources(stack, "AWS::SQS::QueuePolicy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    ]
    assert [one["Principal"] for one in statements] == [{"Service": "s3.amazonaws.com"}]
    assert statements[0]["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_the_queue_hides_messages_for_as_long_as_the_function_may_take(stack, direct):
    direct(inference=Inference.cpu(timeout=cdk.Duration.minutes(3)), timeout=cdk.Duration.minutes(1))
    hidden = {one["Properties"].get("VisibilityTimeout") for one in resources(stack, "AWS::SQS::Queue").values()}
    assert 180 + 1 + 30 in hidden


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"max_concurrency": 1}, "max_concurrency must be"),
        ({"batch_size": 1001}, "batch_size must be"),
        ({"timeout": cdk.Duration.minutes(16)}, "timeout must be"),
        ({"suffixes": [f".{number}" for number in range(34)]}, "suffixes must"),
        ({"prefix": "a*"}, "prefix must not contain"),
        ({"prefix": "größe/"}, "prefix must consist of"),
        ({"inference": Inference.gpu()}, "inference must be"),
    ],
)
def test_props_that_cannot_work_are_refused(direct, props, message):
    with pytest.raises(PropError, match=message):
        direct(**props)


def test_suffixes_that_s3_might_read_otherwise_are_refused(stack):
    with pytest.raises(PropError, match="suffixes must consist of"):
        S3NotificationTrigger(stack, "Trigger", suffixes=[".jp g"])


def test_props_of_a_trigger_are_refused_with_one(stack, direct):
    with pytest.raises(PropError, match="batch_size must be left out with a trigger"):
        direct(trigger=QueueTrigger(stack, "Given"), batch_size=32)


def test_a_workflow_behind_notifications_is_refused(stack, model):
    trigger = S3NotificationTrigger(stack, "Given")
    with pytest.raises(PropError, match="must have a function as its target"):
        InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), trigger=trigger)
