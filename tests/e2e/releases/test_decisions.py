"""Whoever decides about a release: it is an event for those who want it, and a record that nobody can change."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cdk_inference.audit.cli import app
from cdk_inference.audit.deployed import DeployedLog
from cdk_inference.local.emulator.pipe_role import OutageError, PipeRole
from cdk_inference.local.emulator.pipe_targets import EventBus
from cdk_inference.local.emulator.stream_pipes import StreamPipeDefinition
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import boto3

    from cdk_inference.local import LocalCloud
    from tests.e2e.releases.conftest import Releasing

pytestmark = pytest.mark.e2e

PIPELINE = "Releases/Shadow"


def told(log: DeployedLog) -> list[dict[str, Any]]:
    today = datetime.now(UTC).date()
    found = log.records(today - timedelta(days=1), today, pipeline=PIPELINE)  # it may have been midnight
    return [one for one in found if one["type"] == "Release Decision"]


def decided(log: DeployedLog, by: str) -> list[dict[str, Any]]:
    return [one["detail"] for one in told(log) if one["detail"]["decision"]["by"] == by]


def test_each_decision_is_recorded_whoever_decides(
    shadow: Releasing, cloud: LocalCloud, session: boto3.Session
) -> None:
    log = DeployedLog.find(session, "Releases")
    wait_until(lambda: decided(log, "deployment"), lambda: told(log), every=0.25)
    (begun,) = decided(log, "deployment")
    assert (begun["status"], begun["share"], begun["compared"]) == ("RUNNING", "0", "100")
    assert (begun["release"], len(begun["stable"]), len(begun["candidate"])) == (shadow.id, 12, 12)

    run = [sys.executable, "-m", "cdk_inference.release", "abort", "Releases", "--pipeline", PIPELINE]
    subprocess.run([*run, "--reason", "Jane Doe says so"], capture_output=True, check=True)
    wait_until(lambda: decided(log, "operator"), lambda: told(log), every=0.25)
    (aborted,) = decided(log, "operator")
    assert (aborted["status"], aborted["share"]) == ("ABORTED", "0")
    assert aborted["decision"]["reason"] == log.pseudonym("Jane Doe says so")
    (event,) = (
        json.loads(message["Body"]) for message in shadow.pipeline.messages(f"{cloud.endpoint}/000000000000/aborted")
    )
    assert (event["source"], event["detail-type"]) == ("cdk-inference", "Release Decision")
    assert json.loads(event["detail"]["history"][-1]["S"])["reason"] == "Jane Doe says so"
    assert not [one for one in told(log) if "Jane" in json.dumps(one)]

    shown = CliRunner().invoke(app, ["records", "Releases", "--pipeline", PIPELINE, "--type", "Release Decision"])
    assert shown.exit_code == 0
    assert f"status=ABORTED share=0 by=operator reason={aborted['decision']['reason']}" in shown.stdout
    shadow.stop()
    shadow.forget()
    shadow.begin()


@pytest.fixture(scope="module")
def pipes(cloud: LocalCloud) -> dict[str, StreamPipeDefinition]:
    found = (one for one in cloud.pipes.running if isinstance(one, StreamPipeDefinition))
    return {one.target.detail_type: one for one in found if isinstance(one.target, EventBus)}


def test_the_pipe_may_read_its_stream_and_put_events_on_its_bus_and_nothing_else(
    cloud: LocalCloud, pipes: dict[str, StreamPipeDefinition]
) -> None:
    mine, results = pipes["Release Decision"], pipes["Inference Result"]
    role = PipeRole(
        cloud.endpoint,
        name=mine.name,
        arn=mine.arn,
        role_arn=mine.role_arn,
        services=("dynamodbstreams", "events", "dynamodb"),
        refusals=deque(),
        logger=logging.getLogger("test"),
        stopping=threading.Event(),
    )

    def allowed(service: str, call: Callable[[Any], object]) -> bool:
        with suppress(OutageError), role.acting("test"):
            call(role.client(service))
            return True
        assert "AccessDenied" in role.refusals[-1].message
        return False

    def put(bus: str) -> Callable[[Any], object]:
        entry = {"Source": "a test", "DetailType": "none", "Detail": "{}", "EventBusName": bus}
        return lambda events: events.put_events(Entries=[entry])

    assert allowed("events", put(mine.target_arn))
    assert not allowed("events", put(mine.target_arn.replace("default", "neighbour")))
    assert allowed("dynamodbstreams", lambda streams: streams.describe_stream(StreamArn=mine.source_arn))
    assert not allowed("dynamodbstreams", lambda streams: streams.describe_stream(StreamArn=results.source_arn))
    table = mine.source_arn.partition("/stream/")[0].rpartition("/")[2]
    assert not allowed("dynamodb", lambda dynamodb: dynamodb.scan(TableName=table))
