"""The trigger for schedules: what it creates, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_kms as kms
from aws_cdk import aws_scheduler as scheduler
from tests.constructs.conftest import resources

from cdk_inference import PropError, ScheduleTrigger

DAILY = scheduler.ScheduleExpression.cron(hour="3", minute="0", time_zone=cdk.TimeZone.EUROPE_BERLIN)


def trigger(stack: cdk.Stack, **props: Any) -> ScheduleTrigger:
    return ScheduleTrigger(stack, "Trigger", **{"schedule": DAILY, "inputs": {"eu": {"days": 7}}, **props})


def test_each_input_has_a_schedule(stack, pipeline):
    made = trigger(stack, inputs={"eu": {"days": 7}, "jp": "text"}, flexible_window=cdk.Duration.minutes(5))
    inferring = pipeline(trigger=made)
    inferring.add_alarms()
    schedules = [one["Properties"] for one in resources(stack, "AWS::Scheduler::Schedule").values()]
    assert [json.loads(one["Target"]["Input"]) for one in schedules] == [
        {"id": "eu/<aws.scheduler.scheduled-time>", "time": "<aws.scheduler.scheduled-time>", "input": {"days": 7}},
        {"id": "jp/<aws.scheduler.scheduled-time>", "time": "<aws.scheduler.scheduled-time>", "input": "text"},
    ]
    assert schedules[0]["ScheduleExpression"] == "cron(0 3 * * ? *)"
    assert schedules[0]["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert schedules[0]["FlexibleTimeWindow"] == {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}
    assert schedules[0]["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185}
    assert schedules[0]["Target"]["Arn"] == stack.resolve(made.queue.queue_arn)
    assert schedules[0]["Target"]["DeadLetterConfig"]["Arn"] == stack.resolve(made.undelivered_queue.queue_arn)
    (pipe,) = resources(stack, "AWS::Pipes::Pipe").values()
    assert '"id": "<$.body.id>"' in pipe["Properties"]["TargetParameters"]["InputTemplate"]


def test_the_role_is_for_one_group_and_two_queues(stack):
    made = trigger(stack, encryption_key=kms.Key(stack, "Key"))
    (role,) = [one["Properties"] for name, one in resources(stack, "AWS::IAM::Role").items() if "ScheduleRole" in name]
    (group,) = resources(stack, "AWS::Scheduler::ScheduleGroup")
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"]["StringEquals"]["aws:SourceArn"] == {"Fn::GetAtt": [group, "Arn"]}
    (statement,) = role["Policies"][0]["PolicyDocument"]["Statement"]
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == stack.resolve([made.queue.queue_arn, made.undelivered_queue.queue_arn])


def test_inputs_may_have_tokens(stack):
    trigger(stack, inputs={"here": {"region": stack.region}})
    (schedule,) = resources(stack, "AWS::Scheduler::Schedule").values()
    assert {"Ref": "AWS::Region"} in schedule["Properties"]["Target"]["Input"]["Fn::Join"][1]


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"inputs": {}}, "inputs must be 1 to 100"),
        ({"inputs": {f"n{number}": 1 for number in range(101)}}, "inputs must be 1 to 100"),
        ({"inputs": {"a/b": 1}}, "inputs must have names"),
        ({"inputs": {"a": object()}}, "inputs must be values"),
        ({"inputs": {"a": "x" * 12_758}}, "inputs must take at most 12,757 bytes"),
        ({"retry_attempts": 186}, "retry_attempts must be"),
        ({"max_event_age": cdk.Duration.seconds(59)}, "max_event_age must be"),
        ({"flexible_window": cdk.Duration.hours(25)}, "flexible_window must be"),
        ({"batch_size": 33}, "batch_size must be"),
    ],
)
def test_props_that_cannot_work_are_refused(stack, props: dict[str, Any], message: str):
    with pytest.raises(PropError, match=message):
        trigger(stack, **props)
