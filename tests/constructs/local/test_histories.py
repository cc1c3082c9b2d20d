"""Histories of executions: what happens inside of Map and Parallel states is in them, with the event before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import wait_until

from cdk_inference.local import aws
from cdk_inference.local.emulator.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

PASS = {"Type": "Pass", "End": True}
BRANCH = {"StartAt": "Left", "States": {"Left": PASS}}
ITEM = {
    "StartAt": "Small?",
    "States": {
        "Small?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$", "NumericLessThan": 2, "Next": "Both"}],
            "Default": "Refuse",
        },
        "Both": {"Type": "Parallel", "Branches": [BRANCH], "End": True},
        "Refuse": {"Type": "Fail", "Error": "TooLarge"},
    },
}
MACHINE = {
    "StartAt": "Each",
    "States": {
        "Each": {
            "Type": "Map",
            "ItemProcessor": ITEM,
            "Catch": [{"ErrorEquals": ["TooLarge"], "Next": "Done"}],
            "Next": "Done",
        },
        "Done": PASS,
    },
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Emulator() as running:
        yield running.endpoint


def history(endpoint: str, items: list[int]) -> dict[int, dict[str, Any]]:
    """Run the state machine, and return the events by their ids."""
    states = aws.client(endpoint, "stepfunctions")
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Statement": [trust]})
    role = aws.client(endpoint, "iam").create_role(RoleName=f"role-{max(items)}", AssumeRolePolicyDocument=document)
    machine = states.create_state_machine(
        name=f"machine-{max(items)}", definition=json.dumps(MACHINE), roleArn=role["Role"]["Arn"]
    )
    execution = states.start_execution(stateMachineArn=machine["stateMachineArn"], input=json.dumps(items))
    arn = execution["executionArn"]
    wait_until(lambda: states.describe_execution(executionArn=arn)["status"] == "SUCCEEDED")
    return {event["id"]: event for event in states.get_execution_history(executionArn=arn)["events"]}


def way(events: dict[int, dict[str, Any]], end: dict[str, Any]) -> list[str]:
    """Return what led to an event, from the first event on."""
    found: list[str] = []
    event: dict[str, Any] | None = end
    while event is not None:
        details = next((value for name, value in event.items() if name.endswith("EventDetails")), {})
        found.append(f"{event['type']} {details.get('name', '')}".strip())
        event = events.get(event.get("previousEventId", 0))
    return found[::-1]


def test_each_item_has_a_way_of_its_own(endpoint: str) -> None:
    events = history(endpoint, [0, 1])
    assert list(events) == list(range(1, len(events) + 1))
    ends = [event for event in events.values() if event["type"] == "MapIterationSucceeded"]
    assert sorted(event["mapIterationSucceededEventDetails"]["index"] for event in ends) == [0, 1]
    inside = [
        "MapStateEntered Each",
        "MapIterationStarted Each",
        "ChoiceStateEntered Small?",
        "ChoiceStateExited Small?",
        "ParallelStateEntered Both",
        "ParallelStateExited Both",
        "MapIterationSucceeded Each",
    ]
    assert [way(events, end) for end in ends] == [inside, inside]
    (_, left) = (event for event in events.values() if event["type"] == "PassStateExited" and "Left" in str(event))
    assert way(events, left)[-3:] == ["ParallelStateEntered Both", "PassStateEntered Left", "PassStateExited Left"]


def test_an_item_that_fails_says_so_where_it_did(endpoint: str) -> None:
    events = history(endpoint, [0, 2])
    (failed,) = (event for event in events.values() if event["type"] == "MapIterationFailed")
    assert way(events, failed)[-2:] == ["FailStateEntered Refuse", "MapIterationFailed Each"]
    assert failed["mapIterationFailedEventDetails"]["index"] == 1
    assert "PassStateExited Done" in way(events, events[len(events)])
