"""Schedules, from their time to the row: each input of a run ends as one row or one dead letter."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.triggers.messages import Messages

pytestmark = pytest.mark.e2e


def run(cloud: LocalCloud, runs: Messages, name: str, queue: str | None = None) -> str:
    """Let a schedule run now, and return the time of the run. Its queue may be another one."""
    client = cloud.client("scheduler")
    schedule = next(one for one in client.list_schedules()["Schedules"] if f"Schedule{name}" in one["Name"])
    place = {"Name": schedule["Name"], "GroupName": schedule["GroupName"]}
    found = client.get_schedule(**place)
    time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    start, _, _ = found["Target"]["Arn"].rpartition(":")
    client.update_schedule(
        **place,
        ScheduleExpression=f"at({time})",
        FlexibleTimeWindow=found["FlexibleTimeWindow"],
        Target={**found["Target"], "Arn": f"{start}:{queue or runs.queue.rpartition('/')[-1]}"},
    )
    return f"{time}Z"


def test_each_input_of_a_run_ends_once(cloud: LocalCloud, nightly: Messages, pipes: PipeRunner) -> None:
    nightly.leave_out_what_is_there()
    times = {name: run(cloud, nightly, name) for name in ("small", "none")}
    ends, dead = nightly.settle(2)
    assert ends == {f"small/{times['small']}": "SUCCEEDED"}
    row = nightly.row(f"small/{times['small']}")
    assert row["prediction"]["sums"] == [3, 7]
    assert row["event_time"] == times["small"]
    # the messages, so that they can be sent again
    assert [json.loads(body)["input"] for body in dead] == ["raise"]
    assert pipes.refusals == []


def test_a_run_that_cannot_be_delivered_is_kept(cloud: LocalCloud, nightly: Messages) -> None:
    run(cloud, nightly, "small", queue="orders")  # for which the role has no permission
    wait_until(nightly.undelivered)
    (letter,) = nightly.undelivered()
    assert json.loads(letter["Body"])["input"] == "return [1, 2, 3, 4]"
    assert "AccessDenied" in letter["MessageAttributes"]["ERROR_MESSAGE"]["StringValue"]
