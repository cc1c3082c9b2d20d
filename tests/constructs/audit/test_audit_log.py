"""The template of an audit log: what is locked, for how long, and who may do what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from tests.constructs.conftest import resources

from cdk_inference import AuditLog, InferencePipeline, Preprocess, PropError

if TYPE_CHECKING:
    from collections.abc import Callable


def bucket(stack: cdk.Stack) -> dict[str, Any]:
    (found,) = (each for name, each in resources(stack, "AWS::S3::Bucket").items() if name.startswith("Log"))
    return found


def actions(stack: cdk.Stack, part: str) -> set[str]:
    return {
        action
        for name, policy in resources(stack, "AWS::IAM::Policy").items()
        if part in name
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }


@pytest.mark.parametrize(
    ("props", "mode", "days"),
    [({}, "GOVERNANCE", 365), ({"compliance_mode": True, "retention": cdk.Duration.days(200)}, "COMPLIANCE", 200)],
)
def test_files_are_locked_versioned_encrypted_and_retained(
    stack: cdk.Stack, props: dict[str, Any], mode: str, days: int
) -> None:
    AuditLog(stack, "Log", **props)
    found = bucket(stack)
    properties = found["Properties"]
    assert properties["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == {"Mode": mode, "Days": days}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert all(properties["PublicAccessBlockConfiguration"].values())
    for kind in ("AWS::S3::Bucket", "AWS::KMS::Key", "AWS::SecretsManager::Secret"):
        assert {each["DeletionPolicy"] for each in resources(stack, kind).values()} == {"RetainExceptOnCreate"}


def test_the_writer_may_only_add(stack: cdk.Stack) -> None:
    AuditLog(stack, "Log")
    of_s3 = {action for action in actions(stack, "Writer") if action.startswith(("s3:", "secretsmanager:"))}
    assert of_s3 == {"s3:PutObject", "secretsmanager:GetSecretValue"}


def test_a_reader_may_neither_write_nor_unlock(stack: cdk.Stack) -> None:
    AuditLog(stack, "Log").grant_query(iam.User(stack, "Auditor"))
    expected = {"s3:GetObject", "s3:ListBucket", "secretsmanager:GetSecretValue", "kms:Decrypt"}
    assert actions(stack, "Auditor") == expected


def test_a_pipeline_sends_answers_decisions_and_deployments(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().audit(AuditLog(stack, "Log"))
    rules = {name: each["Properties"] for name, each in resources(stack, "AWS::Events::Rule").items()}
    answers, decisions, deployments = (
        next(rule for name, rule in rules.items() if part in name)
        for part in ("AuditResults", "AuditDecisions", "AuditDeployments")
    )
    assert answers["EventPattern"]["detail-type"] == ["Inference Result"]
    assert decisions["EventPattern"] == {
        "source": ["cdk-inference"],
        "detail-type": [{"anything-but": ["Inference Result"]}],
        "detail": {"pipeline": ["Stack/Photos"]},
    }
    assert deployments["EventPattern"]["detail"]["stack-id"] == [{"Ref": "AWS::StackId"}]
    (target,) = deployments["Targets"]
    assert '"models":{"main":"unbuilt"}' in target["InputTransformer"]["InputTemplate"]
    assert all("DeadLetterConfig" in target for rule in (answers, decisions, deployments) for target in rule["Targets"])
    hashing = [
        each["Properties"]["Description"]
        for each in resources(stack, "AWS::Lambda::Function").values()
        if "ANSWER_HASH" in each["Properties"]["Environment"]["Variables"]
    ]
    assert len(hashing) == 1


def test_a_log_of_another_stack_takes_events_of_the_rules_of_a_pipeline_only(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    kept = cdk.Stack(stack.node.scope, "Kept")
    pipeline().audit(AuditLog(kept, "Log"))
    rules = {
        name: each["Properties"] for name, each in resources(stack, "AWS::Events::Rule").items() if "Audit" in name
    }
    names = {rule["Name"] for rule in rules.values()}
    assert len(names) == 3
    assert all(len(name) <= 64 and name.startswith("Stack-Photos-Audit") for name in names)
    policies = resources(kept, "AWS::SQS::QueuePolicy").values()
    assert len(policies) == 2
    for policy in policies:
        statements = policy["Properties"]["PolicyDocument"]["Statement"]
        allowed = [each for each in statements if each["Effect"] == "Allow"]
        assert {(each["Action"], each["Principal"]["Service"]) for each in allowed} == {
            ("sqs:SendMessage", "events.amazonaws.com")
        }
        arns = [stack.resolve(arn)["Fn::Join"][1][-1] for each in allowed for arn in sources(each)]
        assert set(arns) == {f":rule/{way}{name}" for way in ("", "*/") for name in names}
    (target,) = {json.dumps(target["Arn"]) for rule in rules.values() for target in rule["Targets"]}
    assert "Kept:ExportsOutputFnGetAttLogQueue" in target


def sources(statement: dict[str, Any]) -> list[Any]:
    found: list[Any] = statement["Condition"]["ArnLike"]["aws:SourceArn"]
    return found


def test_cloudformation_asks_for_a_record_when_models_change(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]
) -> None:
    pipeline().audit(AuditLog(stack, "Log"))
    (change,) = resources(stack, "Custom::RecordedModels").values()
    asked = change["Properties"]
    assert asked["Models"] == {"main": {"model": "tiny", "version": "unbuilt", "artifact": "unbuilt"}}
    assert (asked["Pipeline"], asked["ServiceTimeout"]) == ("Stack/Photos", "600")
    assert "LogWriter" in json.dumps(asked["ServiceToken"])
    assert any("LogWriterRoleDefaultPolicy" in name for name in change["DependsOn"])
    assert change["DeletionPolicy"] == "Retain"


@pytest.mark.parametrize("audited", ["before", "after"])
def test_verdicts_go_where_the_log_listens_whichever_came_first(
    stack: cdk.Stack, pipeline: Callable[..., InferencePipeline], audited: str
) -> None:
    made, log = pipeline(), AuditLog(stack, "Log")
    if audited == "before":
        made.audit(log)
    monitor = made.add_drift_monitor()
    monitor.on_verdict("Drifted")
    if audited == "after":
        made.audit(log)
    (judge,) = (
        each["Properties"]["Environment"]["Variables"]
        for name, each in resources(stack, "AWS::Lambda::Function").items()
        if "DriftJudge" in name
    )
    assert "event-bus/default" in json.dumps(judge["EVENT_BUS"])
    assert "events:PutEvents" in actions(stack, "DriftJudge")


def test_a_trail_records_who_writes_to_the_inbox_and_nothing_else(stack: cdk.Stack, model: Any) -> None:
    trail = cloudtrail.Trail(stack, "Trail", management_events=cloudtrail.ReadWriteType.NONE)
    made = InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224), prefix="in/")
    made.audit(AuditLog(stack, "Log", trail=trail))
    (found,) = resources(stack, "AWS::CloudTrail::Trail").values()
    (selector,) = (each for each in found["Properties"]["EventSelectors"] if "DataResources" in each)
    assert (selector["ReadWriteType"], selector["IncludeManagementEvents"]) == ("WriteOnly", False)
    (data,) = selector["DataResources"]
    (inbox,) = (name for name in resources(stack, "AWS::S3::Bucket") if "Inbox" in name or "TriggerBucket" in name)
    assert data["Type"] == "AWS::S3::Object"
    assert data["Values"] == [{"Fn::Join": ["", [{"Fn::GetAtt": [inbox, "Arn"]}, "/in/"]]}]


def test_a_pipeline_without_a_log_hashes_nothing(stack: cdk.Stack, pipeline: Callable[..., InferencePipeline]) -> None:
    pipeline()
    assert "ANSWER_HASH" not in json.dumps(resources(stack, "AWS::Lambda::Function"))


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({"retention": cdk.Duration.hours(36)}, "retention must be whole days, 1 or more, got 1.5 days"),
        ({"max_batching_window": cdk.Duration.seconds(0)}, "max_batching_window must be"),
    ],
)
def test_a_duration_out_of_range_fails(stack: cdk.Stack, props: dict[str, Any], message: str) -> None:
    with pytest.raises(PropError, match=message):
        AuditLog(stack, "Log", **props)
