"""The log has each answer, decision and deployment once, nobody's name, and only additions."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from cdk_inference.audit.cli import app
from cdk_inference.audit.deployed import AuditError, DeployedLog
from cdk_inference.local import aws
from inference_runtime.audit.answers import answer_sha256
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e

RECORD = json.dumps({"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.0}).encode()
PIPELINE = "Events/Records"


class Session:
    """As boto3's, for the embedded AWS."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.client = cloud.client


@pytest.fixture(scope="module")
def log(cloud: LocalCloud) -> DeployedLog:
    return DeployedLog.find(Session(cloud), "Events")


@pytest.fixture(scope="module")
def bucket(cloud: LocalCloud) -> str:
    return next(r.physical_id for r in cloud.resources(pipeline="Events") if r.metadata["role"] == "audit-log")


@pytest.fixture(scope="module")
def writer(cloud: LocalCloud) -> str:
    return next(r.physical_id for r in cloud.resources(pipeline="Events/Log") if r.metadata.get("stage") == "Writer")


def told(log: DeployedLog, **wanted: str) -> list[dict[str, Any]]:
    today = datetime.now(UTC).date()
    found = log.records(today - timedelta(days=1), today, pipeline=PIPELINE)  # it may have been midnight
    return [one for one in found if all(one.get(name) == value for name, value in wanted.items())]


def files(cloud: LocalCloud, bucket: str) -> dict[str, bytes]:
    s3 = cloud.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def message(number: int, **event: Any) -> dict[str, Any]:
    event = {"id": f"event {number}", "time": "2026-01-01T00:00:00Z", "detail-type": "Verdict", "detail": {}} | event
    return {"messageId": str(number), "body": json.dumps({"pipeline": "another", "event": event})}


def invoke(cloud: LocalCloud, writer: str, *messages: dict[str, Any]) -> list[str]:
    """Give the writer messages, and return those that it did not write."""
    answer = cloud.client("lambda").invoke(FunctionName=writer, Payload=json.dumps({"Records": messages}))
    payload = json.load(answer["Payload"])
    assert "FunctionError" not in answer, payload
    return [each["itemIdentifier"] for each in payload["batchItemFailures"]]


def test_an_answer_is_found_by_its_object_and_proven_by_its_row(
    records: Watched, log: DeployedLog, cloud: LocalCloud, bucket: str
) -> None:
    records.put("persons/Jane Doe.json", RECORD)
    records.put("persons/John Roe.json", b"no JSON")
    records.ends(["persons/Jane Doe.json", "persons/John Roe.json"])
    names = {key: f"{records.bucket}/persons/{key}.json" for key in ("Jane Doe", "John Roe")}
    wait_until(lambda: all(told(log, object=log.pseudonym(name)) for name in names.values()), every=0.25)
    (answered,) = told(log, object=log.pseudonym(names["Jane Doe"]))
    row = records.row("persons/Jane Doe.json")
    stored = cloud.client("dynamodb").get_item(
        TableName=records.table, Key={"object": {"S": row["object"]}, "version": {"S": row["version"]}}
    )["Item"]
    assert answer_sha256(stored["prediction"]) == row["answer_sha256"]
    assert answered["answer"] == log.pseudonym(row["answer_sha256"])
    assert {name: answered[name] for name in ("status", "model_version", "version", "recorded_at")} == {
        name: row[name] for name in ("status", "model_version", "version", "recorded_at")
    }
    (rejected,) = told(log, object=log.pseudonym(names["John Roe"]))
    assert (rejected["status"], rejected.get("answer")) == ("REJECTED", None)
    everything = b"".join(files(cloud, bucket).values())
    assert not [word for word in (b"Jane", b"Roe", records.bucket.encode(), b"middle") if word in everything]


def test_a_decision_about_the_pipeline_is_recorded_whole(log: DeployedLog, cloud: LocalCloud) -> None:
    detail = {"pipeline": PIPELINE, "verdict": "DRIFT", "evidence": {"statistic": 3.5}}
    entries = [
        {"Source": "cdk-inference", "DetailType": "Drift Verdict", "Detail": json.dumps(each)}
        for each in ({"pipeline": "another/Pipeline"}, detail)
    ]
    assert cloud.client("events").put_events(Entries=entries)["FailedEntryCount"] == 0
    wait_until(lambda: bool(told(log, type="Drift Verdict")), every=0.25)
    assert [one["detail"] for one in told(log, type="Drift Verdict")] == [detail]


def test_a_verdict_is_recorded_with_its_evidence(records: Watched, log: DeployedLog, cloud: LocalCloud) -> None:
    function = cloud.client("lambda").get_function_configuration(FunctionName=records.functions["Score"])
    variables = function["Environment"]["Variables"]
    now = int(time.time())
    begin = datetime.fromtimestamp(now - now % 300 - 3600, UTC).isoformat()
    counts = {"n_objects": 64, "n_rejected": 1}
    for prefix, observed in (("o", "DRIFT_OUTPUTS"), ("i", "DRIFT_INPUTS")):
        counts |= {f"{prefix}{place}_0": 64 for place in range(len(json.loads(variables[observed])))}
    item = {"model": {"S": variables["DRIFT_MODEL"]}, "started_at": {"S": begin}}
    item |= {name: {"N": str(count)} for name, count in counts.items()}
    cloud.client("dynamodb").put_item(TableName=variables["DRIFT_TABLE"], Item=item)
    answer = cloud.client("lambda").invoke(FunctionName=records.functions["Judge"], Payload=b"{}")
    assert "FunctionError" not in answer, answer["Payload"].read()
    wait_until(lambda: any(one["detail"].get("window") == begin for one in told(log, type="Drift Verdict")), every=0.25)
    (one,) = (one for one in told(log, type="Drift Verdict") if one["detail"].get("window") == begin)
    detail = one["detail"]
    assert (detail["verdict"], detail["objects"], detail["rejected"]) == ("DRIFT", 64, 1)
    assert detail["baseline"] == variables["DRIFT_MODEL"]
    assert detail["baseline"].startswith(detail["model_version"])
    assert {"p_value", "window", "baseline", "drifted"} <= set(detail["statistics"][0])


def test_a_deployment_that_changes_a_model_is_recorded_with_the_old_one(
    log: DeployedLog, cloud: LocalCloud, bucket: str
) -> None:
    (created,) = told(log, type="Model Change")
    first = created["detail"]["models"]["main"]
    assert created["detail"]["before"] == {}
    assert len(first["version"]) == 12
    assert len(first["artifact"]) == 64
    cloudformation = cloud.client("cloudformation")
    template = cloud.stack("Events").template()
    (change,) = (each for each in template["Resources"].values() if each["Type"] == "Custom::RecordedModels")
    second = change["Properties"]["Models"]["main"] = {**first, "version": "fedcba987654", "artifact": "f" * 64}
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="templates")
    s3.put_object(Bucket="templates", Key="changed", Body=json.dumps(template).encode())
    cloudformation.update_stack(
        StackName="Events",
        TemplateURL=f"{cloud.endpoint}/templates/changed",
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
    )
    cloudformation.get_waiter("stack_update_complete").wait(StackName="Events", WaiterConfig={"Delay": 1})
    _, changed = sorted(told(log, type="Model Change"), key=lambda one: len(one["detail"]["before"]))
    assert (changed["detail"]["before"], changed["detail"]["models"]) == ({"main": first}, {"main": second})
    assert changed["detail"]["stack"] == created["detail"]["stack"]
    wait_until(
        lambda: [one for one in told(log, type="Deployment") if one["detail"]["status"] == "UPDATE_COMPLETE"],
        every=0.25,
    )


def test_the_judge_may_put_verdicts_and_no_other_event_and_on_no_other_bus(records: Watched, cloud: LocalCloud) -> None:
    function = cloud.client("lambda").get_function_configuration(FunctionName=records.functions["Judge"])
    bus = function["Environment"]["Variables"]["EVENT_BUS"]
    credentials = aws.service_credentials(
        cloud.endpoint, function["Role"], service="lambda.amazonaws.com", source_arn=function["FunctionArn"]
    )
    events = aws.role_clients(cloud.endpoint, credentials, ["events"])["events"]
    verdict = {"Source": "cdk-inference", "DetailType": "Drift Verdict", "Detail": "{}", "EventBusName": bus}
    assert events.put_events(Entries=[verdict])["FailedEntryCount"] == 0
    for other in (
        {"DetailType": "Release Decision"},
        {"Source": "somebody"},
        {"EventBusName": bus.replace("default", "neighbour")},
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            events.put_events(Entries=[verdict | other])
        with pytest.raises(ClientError, match="AccessDenied"):
            events.put_events(Entries=[verdict, verdict | other])


def test_messages_that_come_again_change_nothing(cloud: LocalCloud, writer: str, bucket: str) -> None:
    assert invoke(cloud, writer, message(1), message(2)) == []
    before = files(cloud, bucket)
    assert invoke(cloud, writer, message(2), message(1), message(1)) == []
    assert files(cloud, bucket) == before
    assert sum(body.count(b"another") for body in before.values()) == 2


def test_only_what_cannot_be_written_comes_again(cloud: LocalCloud, writer: str) -> None:
    broken = {"messageId": "broken", "body": "{}"}
    assert invoke(cloud, writer, message(3), broken) == ["broken"]


def test_a_writer_that_cannot_write_loses_nothing(cloud: LocalCloud, writer: str, bucket: str) -> None:
    iam = cloud.client("iam")
    role = cloud.client("lambda").get_function_configuration(FunctionName=writer)["Role"].rpartition("/")[2]
    deny = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    iam.put_role_policy(RoleName=role, PolicyName="fault", PolicyDocument=policy)
    try:
        assert invoke(cloud, writer, message(4), message(5)) == ["4", "5"]
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="fault")
    assert invoke(cloud, writer, message(4), message(5)) == []


def test_the_writer_may_add_records_and_nothing_else(cloud: LocalCloud, writer: str, bucket: str) -> None:
    function = cloud.client("lambda").get_function_configuration(FunctionName=writer)
    credentials = aws.service_credentials(
        cloud.endpoint, function["Role"], service="lambda.amazonaws.com", source_arn=function["FunctionArn"]
    )
    s3 = aws.role_clients(cloud.endpoint, credentials, ["s3"])["s3"]
    s3.put_object(Bucket=bucket, Key="records/pipeline=granted/date=2026-01-01/a.jsonl", Body=b"")
    refused: list[Callable[[], object]] = [
        lambda: s3.put_object(Bucket=bucket, Key="elsewhere", Body=b""),
        lambda: s3.get_object(Bucket=bucket, Key="records/pipeline=granted/date=2026-01-01/a.jsonl"),
        lambda: s3.delete_object(Bucket=bucket, Key="records/pipeline=granted/date=2026-01-01/a.jsonl"),
        lambda: s3.list_objects_v2(Bucket=bucket),
    ]
    for call in refused:
        with pytest.raises(ClientError, match="AccessDenied"):
            call()


def test_a_file_cannot_be_deleted_within_its_retention(cloud: LocalCloud, writer: str, bucket: str) -> None:
    s3 = cloud.client("s3")
    (declared,) = (r.properties for r in cloud.stack("Events").resources(role="audit-log"))
    lock = declared["ObjectLockConfiguration"]
    assert declared["ObjectLockEnabled"] is True
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=lock)  # a template's is ignored here
    assert invoke(cloud, writer, message(6)) == []
    versions = s3.list_object_versions(Bucket=bucket, Prefix="records/pipeline=another/")["Versions"]
    versions.sort(key=lambda version: version["LastModified"], reverse=True)
    retention = s3.get_object_retention(Bucket=bucket, Key=versions[0]["Key"])["Retention"]
    assert retention["Mode"] == "GOVERNANCE"
    assert 363 < (retention["RetainUntilDate"] - datetime.now(UTC)).days <= 365
    newest = {"Bucket": bucket, "Key": versions[0]["Key"], "VersionId": versions[0]["VersionId"]}
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(**newest)
    s3.delete_object(**newest, BypassGovernanceRetention=True)  # whoever may do that, as the root


def test_the_command_line_shows_what_was_answered_for_an_object(
    cloud: LocalCloud, records: Watched, log: DeployedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.put("asked", RECORD)
    records.ends(["asked"])
    name = f"{records.bucket}/asked"
    wait_until(lambda: told(log, object=log.pseudonym(name)), every=0.25)
    for variable, value in aws.environment(cloud.endpoint, base={}).items():
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(app, ["object", "Events", name, "--json"])
    (one,) = map(json.loads, shown.stdout.splitlines())
    assert (shown.exit_code, one["status"], one["pipeline"]) == (0, "SUCCEEDED", PIPELINE)
    shown = CliRunner().invoke(app, ["records", "Events", "--pipeline", PIPELINE])
    assert f"status=SUCCEEDED model_version={one['model_version']}" in shown.stdout
    assert CliRunner().invoke(app, ["object", "Events", f"{name} not"]).exit_code == 1
    assert CliRunner().invoke(app, ["records", "Events", "--until", "2020-01-01"]).exit_code == 1


def test_a_log_that_does_not_exist_fails(cloud: LocalCloud) -> None:
    with pytest.raises(AuditError, match="log must be one of Events/Log, got 'Other'"):
        DeployedLog.find(Session(cloud), "Events", "Other")
