"""Pipes: which messages go back, and what a pipe does with its own role."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.constructs.local.templates import create, pipeline, template, trust
from tests.waiting import PATIENCE, wait_until

from cdk_inference.local import LocalError, Resource, aws
from cdk_inference.local.cloud import Cloud
from cdk_inference.local.emulator.emulator import Emulator
from cdk_inference.local.emulator.pipe_targets import failed_messages
from cdk_inference.local.emulator.pipes import PipeDefinition, PipeRunner
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cdk_inference.local import LocalCloud
    from cdk_inference.local.emulator.pipe_role import Refusal
    from cdk_inference.local.uploads import Pipeline

DESCRIBED = {"Name": "p", "Arn": "arn:pipe", "RoleArn": "arn:role", "Source": "arn:queue", "Target": "arn:machine"}
SENT = ["a", "b", "c"]
BY_ACCOUNT = {"StringEquals": {"aws:SourceAccount": aws.ACCOUNT}}
BY_PIPE = {"ArnLike": {"aws:SourceArn": f"arn:aws:pipes:{aws.REGION}:{aws.ACCOUNT}:pipe/*"}}


def pipe(**properties: Any) -> Resource:
    return Resource("Stack", "Pipe", "p", "AWS::Pipes::Pipe", properties)


class Endpoint:
    """An emulator whose pipes run, into which small templates are deployed."""

    def __init__(self, url: str, pipes: PipeRunner) -> None:
        self.url, self._pipes = url, pipes

    def batch_sizes(self, name: str) -> list[int]:
        """Return the batch sizes of the running pipes of this name."""
        return [pipe.batch_size for pipe in self._pipes.running if pipe.name == name]

    def first_refusal(self, name: str, statements: list[dict[str, object]]) -> Refusal | None:
        """Deploy, send a message, and return what the pipe was not able to do; None as soon as the queue is empty."""
        create(aws.client(self.url, "cloudformation"), name, template(name, statements))
        sqs = aws.client(self.url, "sqs")
        queue = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        sqs.send_message(QueueUrl=queue, MessageBody="{}")
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            refusals = [refusal for refusal in self._pipes.refusals if refusal.pipe == name]
            if refusals:
                return refusals[0]
            left = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=counts)["Attributes"]
            if not any(map(int, left.values())):
                return None
            time.sleep(0.05)
        raise AssertionError("the pipe did nothing")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Emulator() as emulator, PipeRunner(emulator.endpoint) as pipes:
        yield Endpoint(emulator.endpoint, pipes)


@pytest.mark.parametrize(
    ("name", "statements"),
    [
        ("unconditional", [trust()]),
        ("both", [trust(BY_ACCOUNT | BY_PIPE)]),
        ("exact", [trust({"ArnEquals": {"aws:SourceArn": f"arn:aws:pipes:{aws.REGION}:{aws.ACCOUNT}:pipe/exact"}})]),
        ("second", [trust(service="events.amazonaws.com"), trust(BY_ACCOUNT)]),
    ],
)
def test_a_pipe_assumes_a_role_that_trusts_it(
    name: str, statements: list[dict[str, object]], endpoint: Endpoint
) -> None:
    assert endpoint.first_refusal(name, statements) is None


@pytest.mark.parametrize(
    ("name", "statements"),
    [
        ("account", [trust(BY_PIPE | {"StringEquals": {"aws:SourceAccount": "111111111111"}})]),
        ("source", [trust(BY_ACCOUNT | {"ArnLike": {"aws:SourceArn": "arn:aws:pipes:*:*:pipe/another"}})]),
        ("service", [trust(BY_ACCOUNT | BY_PIPE, service="events.amazonaws.com")]),
        ("root", [{**trust(), "Principal": {"AWS": f"arn:aws:iam::{aws.ACCOUNT}:root"}}]),
        ("denied", [trust(), trust(BY_PIPE, effect="Deny")]),
    ],
)
def test_a_pipe_whose_role_does_not_trust_it_fails(
    name: str, statements: list[dict[str, object]], endpoint: Endpoint
) -> None:
    refusal = endpoint.first_refusal(name, statements)
    assert refusal is not None
    assert refusal.action == "AssumeRole"
    assert "does not let pipes.amazonaws.com assume the role" in refusal.message
    assert f"with aws:SourceAccount {aws.ACCOUNT} and aws:SourceArn arn:aws:pipes:" in refusal.message
    assert f":pipe/{name}: " in refusal.message
    policy = json.loads(refusal.message.partition(f":pipe/{name}: ")[2])
    assert policy["Statement"] == statements


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        ('{"batchItemFailures": [{"itemIdentifier": "b"}]}', {"b"}),
        ('{"batchItemFailures": []}', set()),
        ('{"batchItemFailures": null}', set()),
        ("{}", set()),
        ("null", set()),
        ('"text"', set()),
        ("", set()),
        ('{"batchItemFailures": [{"itemIdentifier": "unknown"}]}', set(SENT)),
        ('{"batchItemFailures": [{"itemIdentifier": ""}]}', set(SENT)),
        ('{"batchItemFailures": [{"itemIdentifier": null}]}', set(SENT)),
        ('{"batchItemFailures": [{"wrong": "b"}]}', set(SENT)),
        ('{"batchItemFailures": ["b"]}', set(SENT)),
    ],
)
def test_failed_messages(output: str, failed: set[str]) -> None:
    assert failed_messages(output, SENT) == failed


@given(output=st.text())
def test_an_output_never_names_messages_that_were_not_sent(output: str) -> None:
    assert failed_messages(output, SENT) <= set(SENT)


def test_a_definition_takes_its_parameters_from_the_template() -> None:
    definition = PipeDefinition.of(
        pipe(
            SourceParameters={"SqsQueueParameters": {"BatchSize": 32, "MaximumBatchingWindowInSeconds": 2}},
            TargetParameters={
                "InputTemplate": "<$.body>",
                "StepFunctionStateMachineParameters": {"InvocationType": "REQUEST_RESPONSE"},
            },
        ),
        DESCRIBED,
    )
    assert (definition.batch_size, definition.window, definition.synchronous) == (32, 2, True)
    assert definition.input_template == "<$.body>"


def test_a_definition_has_the_defaults_of_aws() -> None:
    definition = PipeDefinition.of(pipe(), DESCRIBED)
    assert (definition.batch_size, definition.window, definition.synchronous) == (10, 0, False)
    assert definition.input_template is None


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"Enrichment": "arn"}, "pipe p cannot run locally with Enrichment"),
        ({"SourceParameters": {"FilterCriteria": {"Filters": []}}}, "pipe p cannot run locally with FilterCriteria"),
        (
            {"TargetParameters": {"InputTemplate": {"Ref": "X"}}},
            "pipe p cannot run locally with an input template that refers to resources",
        ),
    ],
)
def test_what_the_stand_in_does_not_have_fails(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalError, match=message):
        PipeDefinition.of(pipe(**properties), DESCRIBED)


def visible(cloud: LocalCloud, queue: str) -> int:
    """Return how many messages wait in a queue."""
    (name,) = names = ["ApproximateNumberOfMessages"]
    return int(cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"][name])


@pytest.mark.e2e
def test_a_batch_is_larger_than_one_receive(probe: Pipeline, local_cloud: LocalCloud) -> None:
    before = len(local_cloud.refusals)
    assert local_cloud.pipes is not None
    local_cloud.pipes.stop()  # until all of them wait, however long that takes
    uploads = [probe.put(f"in/batch {number}+ü%.jpg", b"x%d" % number) for number in range(60)]
    queue = local_cloud.stack("LocalProbe").resources(role="queue")[0].physical_id
    wait_until(lambda: visible(local_cloud, queue) >= len(uploads))
    local_cloud.pipes.start()
    outcomes = probe.wait_for(uploads, PATIENCE)
    assert {outcome.status for outcome in outcomes} == {"SUCCEEDED"}
    sizes = {int(outcome.row["batch"]) for outcome in outcomes if outcome.row}
    assert 10 < max(sizes) <= 25
    assert [refusal for refusal in local_cloud.refusals[before:] if refusal.pipe.startswith("LocalProbe")] == []


@pytest.mark.e2e
def test_only_the_failed_message_of_a_batch_comes_back(probe: Pipeline, local_cloud: LocalCloud) -> None:
    good, poison, bad = (probe.put(key, key.encode()) for key in ("in/good", "in/poison", "in/bad"))
    outcomes = probe.wait_for([good, poison, bad], PATIENCE)
    assert [outcome.status for outcome in outcomes] == ["SUCCEEDED", "DEAD_LETTER", "REJECTED"]
    seen = [message for _, _, message in local_cloud.logs() if message.startswith("scoring")]
    assert seen.count("scoring in/good") == 1
    assert seen.count("scoring in/poison") == 2  # max_receive_count
    assert outcomes[1].reason == "in the dead-letter queue"  # SQS moved it


@pytest.mark.e2e
def test_a_dead_letter_that_was_sent_says_why(probe: Pipeline, local_cloud: LocalCloud) -> None:
    sqs = local_cloud.client("sqs")
    queue = sqs.get_queue_url(QueueName=str(probe.dead_letter_queue).rsplit("/", 1)[-1])["QueueUrl"]
    said = {"Error": "ValueError", "Cause": "as it was told"}
    sqs.send_message(
        QueueUrl=queue,
        MessageBody=json.dumps({"time": "2026-01-01T00:00:00Z", "detail": {"object": {"key": "in/sent"}}}),
        MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in said.items()},
    )
    assert [one.reason for one in probe.outcomes() if one.key == "in/sent"] == ["ValueError: as it was told"]


@pytest.mark.e2e
def test_a_pipe_without_the_right_to_start_its_machine_fails(
    local_cloud: LocalCloud, ready: Callable[..., Path]
) -> None:
    local_cloud.deploy(ready(stack="Refused", **{"without-start": "true"}))
    refused = local_cloud.pipeline("Refused")
    upload = refused.put("in/any.jpg", b"x")
    outcome = refused.wait_for([upload], PATIENCE)[0]
    assert outcome.status == "DEAD_LETTER"
    refusals = [refusal for refusal in local_cloud.refusals if refusal.pipe.startswith("Refused")]
    assert {refusal.action for refusal in refusals} == {"StartSyncExecution"}
    assert "is not authorized to perform: states:StartSyncExecution" in refusals[0].message


@pytest.mark.e2e
def test_a_pipe_that_does_not_wait_deletes_what_it_started(local_cloud: LocalCloud, ready: Callable[..., Path]) -> None:
    local_cloud.deploy(ready(stack="Forgetful", invocation="FIRE_AND_FORGET"))
    forgetful = local_cloud.pipeline("Forgetful")
    forgetful.put("in/poison", b"x")
    assert forgetful.wait_for([forgetful.put("in/good.jpg", b"x")], PATIENCE)[0].status == "SUCCEEDED"
    queue = local_cloud.stack("Forgetful").resources(role="queue")[0].physical_id
    sqs = local_cloud.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def left() -> int:
        counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        return sum(map(int, counts.values()))

    wait_until(lambda: not left())
    assert [outcome.key for outcome in forgetful.outcomes()] == ["in/good.jpg"]  # nobody heeded the failure


def test_a_changed_pipe_is_followed(endpoint: Endpoint) -> None:
    cloudformation = aws.client(endpoint.url, "cloudformation")
    create(cloudformation, "Changed", pipeline(BatchSize=3))
    wait_until(lambda: endpoint.batch_sizes("marked") == [3])
    changed = json.dumps(pipeline(BatchSize=7))
    cloudformation.update_stack(StackName="Changed", TemplateBody=changed, Capabilities=["CAPABILITY_IAM"])
    wait_until(lambda: endpoint.batch_sizes("marked") == [7])


def test_resources_are_read_again_only_after_a_change(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Noted(Stack):
        def template(self) -> dict[str, Any]:
            read.append(self.name)
            return super().template()

    monkeypatch.setattr("cdk_inference.local.cloud.Stack", Noted)
    cloudformation = aws.client(endpoint.url, "cloudformation")
    body = {"Resources": {"First": {"Type": "AWS::SQS::Queue"}}}
    create(cloudformation, "Queues", body)
    cloud = Cloud(endpoint.url, tmp_path)

    def queues() -> list[str]:
        return [one.logical_id for one in cloud.resources(type="AWS::SQS::Queue") if one.stack == "Queues"]

    assert queues() == queues() == ["First"]
    assert read.count("Queues") == 1
    body["Resources"]["Second"] = {"Type": "AWS::SQS::Queue"}
    cloudformation.update_stack(StackName="Queues", TemplateBody=json.dumps(body))
    wait_until(lambda: queues() == ["First", "Second"])
