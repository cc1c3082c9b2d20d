"""The trigger for messages: what it creates, what it refuses, and what it warns of."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sqs as sqs
from aws_cdk.assertions import Annotations, Match
from tests.constructs.conftest import resources

from cdk_inference import AuditLog, Inference, InferencePipeline, Preprocess, PropError, QueueTrigger, Route, Routing

TEMPLATE = (
    '{"message_id": "<$.messageId>", "receive_count": "<$.attributes.ApproximateReceiveCount>", "body": <$.body>, '
    '"item": {"source": "<aws.pipes.source-arn>", "id": "<%s>", "sequence": "<%s>", '
    '"time": "<$.attributes.SentTimestamp>"}}'
)


def test_a_pipeline_takes_messages(stack, pipeline):
    trigger = QueueTrigger(stack, "Trigger", item_id="$.order.id", sequence="$.versions[0]")
    inferring = pipeline(trigger=trigger)
    inferring.add_alarms()
    inferring.add_dashboard()
    assert not [one for one in resources(stack, "AWS::S3::Bucket").values() if "Inbox" in json.dumps(one)]
    assert not resources(stack, "AWS::Events::Rule")
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert pipe["Properties"]["TargetParameters"]["InputTemplate"] == TEMPLATE % (
        "$.body.order.id",
        "$.body.versions[0]",
    )
    queues = {name: one["Properties"] for name, one in resources(stack, "AWS::SQS::Queue").items()}
    assert len(queues) == 2
    (queue,) = [one for one in queues.values() if "RedrivePolicy" in one]
    assert queue["MaximumMessageSize"] == 12757
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 1000
    with pytest.raises(PropError, match="must have an undelivered_queue"):
        inferring.metric_undelivered()


def test_by_default_each_message_is_another_item(stack, pipeline):
    pipeline(trigger=QueueTrigger(stack, "Trigger"))
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    template = TEMPLATE % ("$.messageId", "$.attributes.SentTimestamp")
    assert pipe["Properties"]["TargetParameters"]["InputTemplate"] == template


def test_no_function_may_read_a_bucket_of_items(stack, pipeline):
    pipeline(trigger=QueueTrigger(stack, "Trigger"))
    policies = json.dumps(resources(stack, "AWS::IAM::Policy"))
    assert "s3:ListBucket" not in policies


def test_whoever_may_put_may_send_messages_and_no_more(stack, pipeline):
    key = kms.Key(stack, "Key")
    trigger = QueueTrigger(stack, "Trigger", encryption_key=key)
    sender = iam.User(stack, "Sender")
    pipeline(trigger=trigger).grant_put(sender)
    (policy,) = [one for name, one in resources(stack, "AWS::IAM::Policy").items() if name.startswith("Sender")]
    encrypt, send = policy["Properties"]["PolicyDocument"]["Statement"]
    assert encrypt["Resource"] == stack.resolve(key.key_arn)
    assert send["Action"] == "sqs:SendMessage"
    assert send["Resource"] == stack.resolve(trigger.queue.queue_arn)


def test_the_pipe_may_start_a_workflow_under_another_key(stack, pipeline):
    inferring = pipeline(trigger=QueueTrigger(stack, "Trigger"))
    key = inferring.node.find_child("Key")
    (policy,) = [one for name, one in resources(stack, "AWS::IAM::Policy").items() if "PipeRole" in name]
    allowed = {one["Action"]: one["Resource"] for one in policy["Properties"]["PolicyDocument"]["Statement"][:1]}
    assert allowed == {"kms:Decrypt": stack.resolve(key.key_arn)}


def test_a_queue_of_the_user_stays_as_it_is(stack, pipeline):
    queue = sqs.Queue(stack, "Mine", visibility_timeout=cdk.Duration.minutes(6), max_message_size_bytes=4096)
    pipeline(trigger=QueueTrigger(stack, "Trigger", queue=queue))
    (mine,) = [one for name, one in resources(stack, "AWS::SQS::Queue").items() if name.startswith("Mine")]
    assert mine["Properties"] == {"VisibilityTimeout": 360, "MaximumMessageSize": 4096}
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert pipe["Properties"]["Source"] == stack.resolve(queue.queue_arn)
    Annotations.from_stack(stack).has_no_warning("*", Match.string_like_regexp("messages larger"))


@pytest.mark.parametrize("imported", [True, False])
def test_messages_that_may_be_too_large_are_warned_of(stack, imported):
    queue = (
        sqs.Queue.from_queue_arn(stack, "Mine", f"arn:aws:sqs:{stack.region}:{stack.account}:mine")
        if imported
        else sqs.Queue(stack, "Mine", visibility_timeout=cdk.Duration.hours(1))
    )
    QueueTrigger(stack, "Trigger", queue=queue, batch_size=1)
    Annotations.from_stack(stack).has_warning("*", Match.string_like_regexp("takes messages larger than 130,722 bytes"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 33}, "batch_size must be"),
        ({"batch_size": 11, "max_batching_window": cdk.Duration.seconds(0)}, "max_batching_window must be"),
        ({"max_receive_count": 0}, "max_receive_count must be"),
        ({"item_id": "order.id"}, "item_id must be a path"),
        ({"item_id": "$.order id"}, "item_id must be a path"),
        ({"sequence": "$"}, "sequence must be a path"),
        ({"sequence": '$.a>", "b": "<$.c'}, "sequence must be a path"),
        ({"max_message_size": cdk.Size.kibibytes(13)}, "max_message_size must be 1,024 to 12,757 bytes"),
        ({"max_message_size": cdk.Size.bytes(512)}, "max_message_size must be"),
    ],
)
def test_props_that_cannot_work_are_refused(stack, options: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message.replace("$", r"\$")):
        QueueTrigger(stack, "Trigger", **options)


def test_a_fifo_queue_is_refused(stack):
    with pytest.raises(PropError, match="must be a standard queue"):
        QueueTrigger(stack, "Trigger", queue=sqs.Queue(stack, "Mine", fifo=True))


def test_a_queue_that_shows_messages_too_early_is_refused(stack):
    queue = sqs.Queue(stack, "Mine", visibility_timeout=cdk.Duration.minutes(5))
    with pytest.raises(PropError, match="queue must hide messages for 331 s or more"):
        QueueTrigger(stack, "Trigger", queue=queue)
    QueueTrigger(stack, "Other", queue=queue, processing_timeout=cdk.Duration.minutes(4))


def test_a_queue_elsewhere_is_refused(stack):
    here = cdk.Stack(stack.node.root, "Here", env=cdk.Environment(account="111122223333", region="eu-west-1"))
    queue = sqs.Queue.from_queue_arn(here, "Mine", "arn:aws:sqs:ap-south-1:111122223333:mine")
    with pytest.raises(PropError, match="queue must be"):
        QueueTrigger(here, "Trigger", queue=queue)


def test_a_gpu_that_is_waited_for_is_refused(stack, pipeline):
    trigger = QueueTrigger(stack, "Trigger")
    with pytest.raises(PropError, match="must not wait for a GPU"):
        pipeline(trigger=trigger, inference=Inference.gpu())


def test_routing_by_tags_is_refused(stack, model):
    routes = [Route(name, model=model, preprocess=Preprocess.image(size=224)) for name in ("a", "b")]
    routing = Routing.by_tag("class", {"gold": routes[0]}, otherwise=routes[1])
    with pytest.raises(PropError, match="routing must not ask for metadata or tags"):
        InferencePipeline(stack, "Pipeline", routing=routing, trigger=QueueTrigger(stack, "Trigger"))


def test_a_trail_of_uploads_is_refused(stack, pipeline):
    log = AuditLog(stack, "Log", trail=cloudtrail.Trail(stack, "Trail"))
    with pytest.raises(PropError, match="trail must be of pipelines for objects"):
        pipeline(trigger=QueueTrigger(stack, "Trigger")).audit(log)
