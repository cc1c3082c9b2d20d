"""A backfill scores what is in the bucket, once, and is safe to stop and to repeat."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from cdk_inference.backfill.deployed import BackfillError, DeployedBackfill, Status
from cdk_inference.local import aws
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cdk_inference.local import LocalCloud, PipeRunner
    from tests.e2e.conftest import Watched
    from tests.e2e.stages.conftest import Hostile

pytestmark = pytest.mark.e2e

GOOD = b"return [1, 2, 3, 4]"


class Filling:
    """The pipeline, its backfill, and a bucket whose events are switched off."""

    def __init__(self, cloud: LocalCloud, pipeline: Watched) -> None:
        self.cloud, self.pipeline = cloud, pipeline
        self.backfill = DeployedBackfill.find(SimpleNamespace(client=cloud.client), "Stages")
        rules = cloud.resources(type="AWS::Events::Rule")
        (self.rule,) = [one.physical_id for one in rules if one.logical_id.startswith("FusedTrigger")]

    @contextmanager
    def without_events(self) -> Iterator[Filling]:
        """Switch off the events; that of an object may come seconds after it, on a busy machine."""
        events = self.cloud.client("events")
        events.disable_rule(Name=self.rule)
        try:
            yield self
        finally:
            events.enable_rule(Name=self.rule)

    def fill(self, prefix: str, number: int, data: bytes = GOOD) -> list[str]:
        """Put objects, and return their keys."""
        keys = [f"{prefix}{index:03} ü+" for index in range(number)]
        for key in keys:
            self.pipeline.put(key, data)
        return keys

    def run(self, selection: Any, **options: Any) -> Status:
        name = self.backfill.start(selection, **{"max_concurrency": 4, **options})
        wait_until(lambda: self.backfill.status(name).status != "RUNNING", every=0.25)
        return self.backfill.status(name)


@pytest.fixture(scope="module")
def filling(cloud: LocalCloud, watch: type[Watched], pipes: PipeRunner, hostile: Hostile) -> Iterator[Filling]:
    with Filling(cloud, watch(cloud, "Stages/Fused")).without_events() as filling:
        yield filling


def outcomes(**some: int) -> dict[str, int]:
    return {**dict.fromkeys(("listed", "left_out", "skipped", "gone", "sent", "queued"), 0), **some}


def test_each_object_ends_once_and_nothing_is_scored_twice(filling: Filling) -> None:
    keys = filling.fill("full/", 130)
    filling.fill("full/bad/raise", 1, b"raise")
    filling.fill("full/bad/refuse", 1, b"refuse")
    raises, refuses = "full/bad/raise000 ü+", "full/bad/refuse000 ü+"
    status = filling.run(filling.backfill.under("full/", None))
    assert status.status == "SUCCEEDED", status
    assert status.objects["succeeded"] == 132
    # On a busy machine the workflow gives some back, which the queue brings again.
    assert status.outcomes | {"queued": 0} == outcomes(listed=132, sent=132)
    ends = filling.pipeline.ends([*keys, raises, refuses])
    assert ends == {**dict.fromkeys(keys, "SUCCEEDED"), raises: "DEAD_LETTER", refuses: "REJECTED"}
    before = filling.pipeline.rows(*keys)

    again = filling.run(filling.backfill.under("full/", None))
    assert again.outcomes | {"queued": 0} == outcomes(listed=132, skipped=131, sent=1)  # a dead letter has no row
    assert filling.pipeline.rows(*keys) == before


def test_a_backfill_that_was_stopped_goes_on_with_what_is_left(filling: Filling, tmp_path: Path) -> None:
    keys = filling.fill("stopped/", 96)
    (tmp_path / "keys").write_text("\n".join(keys) + "\n")
    # Its three batches take at least six seconds each, so that it still runs when it is told to stop.
    name = filling.backfill.start(filling.backfill.listed(tmp_path / "keys"), max_concurrency=1, rate=0.54)
    with pytest.raises(BackfillError, match="must not run twice"):
        filling.backfill.start(filling.backfill.under("stopped/", None), max_concurrency=1)
    wait_until(lambda: filling.pipeline.rows(*keys), every=0.1)
    assert filling.backfill.stop().status == "ABORTED"
    with pytest.raises(BackfillError, match="must run to be stopped"):
        filling.backfill.stop()
    wait_until(lambda: not filling.backfill.status(name).objects["running"])
    scored = len(filling.pipeline.rows(*keys))
    assert scored
    status = filling.run(filling.backfill.under("stopped/", None))
    skipped = status.outcomes["skipped"]  # and what the queue brought meanwhile
    assert scored <= skipped
    assert status.outcomes | {"queued": 0} == outcomes(listed=96, skipped=skipped, sent=96 - skipped)
    assert filling.pipeline.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")


def test_what_the_workflow_gives_back_is_left_to_the_queue(filling: Filling) -> None:
    keys = filling.fill("throttled/", 3)
    with filling.pipeline.throttled("Score"):
        status = filling.run(filling.backfill.under("throttled/", None))
    assert status.outcomes == outcomes(listed=3, sent=3, queued=3)
    assert filling.pipeline.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")


def test_a_backfill_and_an_event_of_an_object_make_one_row(filling: Filling) -> None:
    """The event is sent as S3 does it: that of the embedded AWS has no version."""
    keys = filling.fill("live/", 8)
    name = filling.backfill.start(filling.backfill.under("live/", None), max_concurrency=1)
    for number, key in enumerate(keys):
        head = filling.cloud.client("s3").head_object(Bucket=filling.pipeline.bucket, Key=key)
        entry = {"key": key, "size": len(GOOD), "etag": head["ETag"].strip('"'), "version-id": head["VersionId"]}
        detail = {"bucket": {"name": filling.pipeline.bucket}, "object": {**entry, "sequencer": f"0055AED6DC{number}"}}
        body = json.dumps({"time": "2026-01-01T00:00:00Z", "detail": detail})
        filling.cloud.client("sqs").send_message(QueueUrl=filling.pipeline.queue, MessageBody=body)
    wait_until(lambda: filling.backfill.status(name).status != "RUNNING", every=0.25)
    assert filling.pipeline.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")
    assert {row["sequencer"][:10] for row in filling.pipeline.rows(*keys)} == {"0055aed6dc"}


def test_an_inventory_names_the_objects(filling: Filling, outputs: dict[str, str]) -> None:
    keys = filling.fill("inventory/", 2)
    bucket, s3 = outputs["InventoriesName"], filling.cloud.client("s3")
    lines = [
        f'"{filling.pipeline.bucket}","inventory/00{number}+%C3%BC%2B","2026-01-0{number + 1}T00:00:00.000Z"'
        for number in (0, 1)
    ]
    s3.put_object(Bucket=bucket, Key="data.csv.gz", Body=gzip.compress("\n".join(lines).encode()))
    manifest = {
        "sourceBucket": filling.pipeline.bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate",
        "files": [{"key": "data.csv.gz"}],
    }
    s3.put_object(Bucket=bucket, Key="manifest.json", Body=json.dumps(manifest).encode())
    chosen = filling.backfill.inventory(f"s3://{bucket}/manifest.json")
    status = filling.run(chosen, since=datetime(2026, 1, 2, tzinfo=UTC))
    assert status.outcomes | {"queued": 0} == outcomes(listed=2, left_out=1, sent=1)
    assert filling.pipeline.ends(keys[1:]) == {keys[1]: "SUCCEEDED"}
    assert filling.pipeline.rows(keys[0]) == []


def allowed(call: Any, **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        if "AccessDenied" in error.response["Error"]["Code"]:
            return False
        if error.response["Error"]["Code"] not in {"ExecutionDoesNotExist", "ValidationException"}:
            raise
    return True


def test_an_operator_starts_backfills_and_nothing_else(filling: Filling, tmp_path: Path) -> None:
    (key,) = filling.fill("operated/", 1)
    credentials = filling.cloud.client("iam").create_access_key(UserName="operator")["AccessKey"]
    clients = aws.role_clients(filling.cloud.endpoint, credentials, ["stepfunctions", "s3"])
    (machine,) = filling.cloud.resources(pipeline="Stages/Fused", role="backfill")
    theirs = DeployedBackfill(machine, SimpleNamespace(client=clients.__getitem__))
    (tmp_path / "keys").write_text(key)
    name = theirs.start(theirs.listed(tmp_path / "keys"), max_concurrency=1)
    wait_until(lambda: theirs.status(name).status != "RUNNING", every=0.25)
    assert theirs.status(name).outcomes | {"queued": 0} == outcomes(listed=1, sent=1)
    workflow = {"stateMachineArn": filling.pipeline.machine, "input": "[]"}
    assert not allowed(clients["stepfunctions"].start_execution, **workflow)
    assert not allowed(clients["s3"].get_object, Bucket=filling.pipeline.bucket, Key=key)


def test_the_state_machine_runs_its_own_workflow_and_no_other(filling: Filling, watch: type[Watched]) -> None:
    (role,) = [
        one.physical_id
        for one in filling.cloud.resources(type="AWS::IAM::Role")
        if one.logical_id.startswith("FusedBackfillStateMachineRole")
    ]
    arn = filling.cloud.client("iam").get_role(RoleName=role)["Role"]["Arn"]
    source = "arn:aws:states:us-east-1:000000000000:stateMachine:any"
    endpoint = filling.cloud.endpoint
    given = aws.service_credentials(endpoint, arn, service="states.amazonaws.com", source_arn=source)
    clients = aws.role_clients(endpoint, given, ("stepfunctions", "sqs", "s3"))
    other = watch(filling.cloud, "Stages/Obedient")
    for pipeline, may in ((filling.pipeline, True), (other, False)):
        start = {"stateMachineArn": pipeline.machine, "input": "[]"}
        assert allowed(clients["stepfunctions"].start_sync_execution, **start) == may
        assert allowed(clients["sqs"].send_message, QueueUrl=pipeline.queue, MessageBody="{}") == may
        assert allowed(clients["s3"].list_objects_v2, Bucket=pipeline.bucket) == may
        assert not allowed(clients["s3"].get_object, Bucket=pipeline.bucket, Key="any")
