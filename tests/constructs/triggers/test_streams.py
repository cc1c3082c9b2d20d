"""The triggers for streams: what they create, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kms as kms
from tests.constructs.conftest import resources, states_of

from cdk_inference import DynamoStreamTrigger, Inference, KinesisTrigger, PropError, ResultsTable


def a_table(stack: cdk.Stack, view: dynamodb.StreamViewType | None, **props: Any) -> dynamodb.Table:
    key = dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING)
    return dynamodb.Table(stack, "Users", partition_key=key, stream=view, **props)


def a_trigger(stack: cdk.Stack, kind: str, **props: Any) -> KinesisTrigger | DynamoStreamTrigger:
    if kind == "kinesis":
        return KinesisTrigger(stack, "Trigger", stream=kinesis.Stream(stack, "Clicks"), **props)
    return DynamoStreamTrigger(stack, "Trigger", table=a_table(stack, dynamodb.StreamViewType.NEW_IMAGE), **props)


def the_pipe(stack: cdk.Stack) -> dict[str, Any]:
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    return dict(pipe["Properties"])


@pytest.mark.parametrize(
    ("props", "item_id"),
    [
        ({}, "$.eventID"),
        ({"item_id": KinesisTrigger.PARTITION_KEY}, "$.partitionKey"),
        ({"item_id": "$.user.ids[0]"}, "$.data.user.ids[0]"),
    ],
)
def test_a_record_says_which_item_it_is(stack, pipeline, props: dict[str, Any], item_id: str):
    pipeline(trigger=a_trigger(stack, "kinesis", **props))
    assert the_pipe(stack)["TargetParameters"]["InputTemplate"] == (
        '{"message_id": "<$.eventID>", "receive_count": "1", "body": <$.data>, "item": '
        f'{{"source": "<aws.pipes.source-arn>", "id": <{item_id}>, "sequence": "<$.sequenceNumber>", '
        '"time": "<$.approximateArrivalTimestamp>", "partition_key": <$.partitionKey>, "encoding": "base64"}}'
    )


def test_a_write_says_which_item_it_is(stack, pipeline):
    pipeline(trigger=a_trigger(stack, "dynamodb"))
    pipe = the_pipe(stack)
    assert pipe["TargetParameters"]["InputTemplate"] == (
        '{"message_id": "<$.eventID>", "receive_count": "1", "body": <$.dynamodb.NewImage>, "item": '
        '{"source": "<aws.pipes.source-arn>", "keys": <$.dynamodb.Keys>, "sequence": "<$.dynamodb.SequenceNumber>", '
        '"time": "<$.dynamodb.ApproximateCreationDateTime>", "encoding": "dynamodb"}}'
    )
    (pattern,) = pipe["SourceParameters"]["FilterCriteria"]["Filters"]
    assert json.loads(pattern["Pattern"]) == {"eventName": ["INSERT", "MODIFY"]}


@pytest.mark.parametrize(
    ("kind", "member"), [("kinesis", "KinesisStreamParameters"), ("dynamodb", "DynamoDBStreamParameters")]
)
def test_a_pipe_halves_batches_and_says_what_it_gives_up(stack, pipeline, kind: str, member: str):
    trigger = a_trigger(stack, kind, max_record_age=cdk.Duration.hours(1), parallelization_factor=3)
    inferring = pipeline(trigger=trigger)
    inferring.add_dashboard()
    alarms = inferring.add_alarms().alarms
    assert ("OldMessages" in alarms) == (kind == "kinesis")
    assert "Undelivered" in alarms
    assert the_pipe(stack)["SourceParameters"][member] == {
        "BatchSize": 10,
        "DeadLetterConfig": {"Arn": stack.resolve(trigger.undelivered_queue.queue_arn)},
        "MaximumBatchingWindowInSeconds": 1,
        "MaximumRecordAgeInSeconds": 3600,
        "MaximumRetryAttempts": -1,
        "OnPartialBatchItemFailure": "AUTOMATIC_BISECT",
        "ParallelizationFactor": 3,
        "StartingPosition": "TRIM_HORIZON",
    }
    with pytest.raises(PropError, match="must have a queue for this"):
        trigger.metric_queue_depth()


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_dead_letter_says_which_record_it_was(stack, pipeline, kind: str):
    pipeline(trigger=a_trigger(stack, kind))
    (machine,) = resources(stack, "AWS::StepFunctions::StateMachine").values()
    pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
    definition = json.loads("".join(piece if isinstance(piece, str) else "x" for piece in pieces))
    send = states_of(definition)["Send dead letter"]
    assert send["Arguments"]["MessageAttributes"].keys() == {"Error", "Cause", "Item"}
    choose = states_of(definition)["Choose dead letters"]
    assert ".receive_count) >= 1 " in choose["Assign"]["dead"]


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_the_key_of_the_source_is_that_of_the_dead_letters(stack, pipeline, kind: str):
    key = kms.Key(stack, "Key")
    trigger: KinesisTrigger | DynamoStreamTrigger
    if kind == "kinesis":
        trigger = KinesisTrigger(stack, "Trigger", stream=kinesis.Stream(stack, "Clicks", encryption_key=key))
    else:
        table = a_table(stack, dynamodb.StreamViewType.NEW_AND_OLD_IMAGES, encryption_key=key)
        trigger = DynamoStreamTrigger(stack, "Trigger", table=table)
    pipeline(trigger=trigger)
    assert trigger.dead_letter_queue.encryption_master_key is key
    policies = json.dumps([p for n, p in resources(stack, "AWS::IAM::Policy").items() if "PipeRole" in n])
    assert '"kms:Decrypt"' in policies


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        ("kinesis", ["kinesis:PutRecord", "kinesis:PutRecords"]),
        ("dynamodb", ["dynamodb:BatchWriteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"]),
    ],
)
def test_whoever_may_put_may_write_to_the_source_and_no_more(stack, pipeline, kind: str, actions: list[str]):
    sender = iam.User(stack, "Sender")
    trigger = a_trigger(stack, kind)
    pipeline(trigger=trigger).grant_put(sender)
    (policy,) = [one for name, one in resources(stack, "AWS::IAM::Policy").items() if name.startswith("Sender")]
    put = policy["Properties"]["PolicyDocument"]["Statement"][-1]
    arn = trigger.stream.stream_arn if isinstance(trigger, KinesisTrigger) else trigger.table.table_arn
    assert (put["Action"], put["Resource"]) == (actions, stack.resolve(arn))


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"batch_size": 33}, "batch_size must be"),
        ({"parallelization_factor": 11}, "parallelization_factor must be"),
        ({"max_record_age": cdk.Duration.seconds(59)}, "max_record_age must be"),
        ({"max_retry_attempts": 10_001}, "max_retry_attempts must be"),
        ({"starting_position": "AT_TIMESTAMP"}, "starting_position must be"),
        ({"max_batching_window": cdk.Duration.seconds(301)}, "max_batching_window must be"),
        ({"item_id": "user.id"}, "item_id must be a path"),
    ],
)
def test_props_that_cannot_work_are_refused(stack, props: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        a_trigger(stack, "kinesis", **props)


@pytest.mark.parametrize("view", [None, dynamodb.StreamViewType.KEYS_ONLY, dynamodb.StreamViewType.OLD_IMAGE])
def test_a_table_without_new_images_is_refused(stack, view: dynamodb.StreamViewType | None):
    with pytest.raises(PropError, match="table must have a stream with new images"):
        DynamoStreamTrigger(stack, "Trigger", table=a_table(stack, view))


def test_a_global_table_may_be_the_source(stack, pipeline):
    key = dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING)
    table = dynamodb.TableV2(
        stack, "Users", partition_key=key, dynamo_stream=dynamodb.StreamViewType.NEW_AND_OLD_IMAGES
    )
    pipeline(trigger=DynamoStreamTrigger(stack, "Trigger", table=table))
    assert the_pipe(stack)["Source"] == stack.resolve(table.table_stream_arn)


def test_an_imported_table_needs_the_arn_of_its_stream(stack):
    arn = f"arn:aws:dynamodb:{stack.region}:{stack.account}:table/users"
    with pytest.raises(PropError, match="import it with table_stream_arn"):
        DynamoStreamTrigger(stack, "Without", table=dynamodb.Table.from_table_arn(stack, "Users", arn))
    table = dynamodb.Table.from_table_attributes(
        stack, "Theirs", table_arn=arn, table_stream_arn=f"{arn}/stream/2026-01-02T03:04:05.678"
    )
    assert DynamoStreamTrigger(stack, "With", table=table).source == "dynamodb:users"


def test_a_pipeline_whose_rows_would_start_it_again_is_refused(stack, pipeline):
    results = ResultsTable(stack, "Results")
    table = dynamodb.Table.from_table_attributes(
        stack, "Same", table_arn=results.table.table_arn, table_stream_arn=results.enable_stream()
    )
    with pytest.raises(PropError, match="results must not be the table of Stack/Trigger"):
        pipeline(trigger=DynamoStreamTrigger(stack, "Trigger", table=table), results=results)


def test_a_gpu_that_is_waited_for_is_refused(stack, pipeline):
    with pytest.raises(PropError, match="must not wait for a GPU"):
        pipeline(trigger=a_trigger(stack, "kinesis"), inference=Inference.gpu())
