"""The export of results: what its parts may do, when it runs, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from tests.constructs.conftest import make_stack, resources

from cdk_inference import PropError, ResultsExport, ResultsTable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def made() -> cdk.Stack:
    """An export with a key, to a bucket of the user under a prefix, and who reads it."""
    stack = make_stack()
    key = kms.Key(stack, "Key")
    results = ResultsTable(stack, "Results", indexes=["status"], encryption_key=key)
    bucket = s3.Bucket(stack, "Lake", encryption_key=kms.Key(stack, "LakeKey"))
    export = ResultsExport(
        stack,
        "Export",
        results=results,
        bucket=bucket,
        prefix="photos/results/",
        window=cdk.Duration.hours(6),
        encryption_key=key,
    )
    export.grant_read(iam.User(stack, "Reader"))
    return stack


def statements(stack: cdk.Stack, part: str) -> Iterator[tuple[str, str]]:
    """Yield the actions that policies allow, each with its resources and conditions."""
    for name, policy in resources(stack, "AWS::IAM::Policy").items():
        if name.startswith(part):
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                where = json.dumps([statement["Resource"], statement.get("Condition")])
                yield from ((action, where) for action in ([actions] if isinstance(actions, str) else actions))


def properties(stack: cdk.Stack, kind: str) -> dict[str, Any]:
    (found,) = resources(stack, kind).values()
    properties: dict[str, Any] = found["Properties"]
    return properties


def test_the_function_reads_the_table_by_its_index_and_writes_its_files(made: cdk.Stack) -> None:
    allowed = list(statements(made, "ExportFunction"))
    of_data = {action for action, _ in allowed if action.startswith(("s3:", "dynamodb:", "sqs:", "lambda:"))}
    assert of_data == {
        "dynamodb:BatchGetItem",
        "dynamodb:GetItem",
        "dynamodb:Query",
        "s3:DeleteObject",
        "s3:ListBucket",
        "s3:PutObject",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:SendMessage",
    }
    where = dict(allowed)
    for action in ("s3:DeleteObject", "s3:PutObject", "s3:ListBucket"):
        assert "photos/results/*" in where[action]
    assert "/index/by-status" in where["dynamodb:Query"]
    keys = {resource for action, resource in allowed if action == "kms:GenerateDataKey"}
    assert any("LakeKey" in resource for resource in keys)


def test_a_reader_may_read_the_files_and_nothing_else(made: cdk.Stack) -> None:
    allowed = dict(statements(made, "Reader"))
    assert allowed.keys() == {"s3:GetObject", "s3:ListBucket", "kms:Decrypt"}
    assert all("photos/results/*" in allowed[action] for action in ("s3:GetObject", "s3:ListBucket"))
    assert "LakeKey" in allowed["kms:Decrypt"]


def test_the_schedule_may_invoke_the_function_and_keep_what_fails(made: cdk.Stack) -> None:
    allowed = dict(statements(made, "ExportScheduleRole"))
    assert allowed.keys() == {"lambda:InvokeFunction", "sqs:SendMessage", "kms:Decrypt"}
    schedule = properties(made, "AWS::Scheduler::Schedule")
    assert schedule["ScheduleExpression"] == "cron(20 0/6 * * ? *)"
    assert "KmsKeyArn" in schedule
    assert schedule["Target"]["Input"] == '{"time":"<aws.scheduler.scheduled-time>"}'
    failed = properties(made, "AWS::Lambda::EventInvokeConfig")["DestinationConfig"]["OnFailure"]["Destination"]
    assert failed == schedule["Target"]["DeadLetterConfig"]["Arn"]
    (group,) = resources(made, "AWS::Scheduler::ScheduleGroup")
    assert group in json.dumps(resources(made, "AWS::IAM::Role")["ExportScheduleRole0397F324"])


@pytest.mark.parametrize(("hours", "expression"), [(1, "cron(20 * * * ? *)"), (24, "cron(20 0 * * ? *)")])
def test_a_new_bucket_is_retained_and_each_window_has_its_run(stack: cdk.Stack, hours: int, expression: str) -> None:
    results = ResultsTable(stack, "Results", indexes=["time", "status"])
    ResultsExport(stack, "Export", results=results, window=cdk.Duration.hours(hours))
    assert properties(stack, "AWS::Scheduler::Schedule")["ScheduleExpression"] == expression
    (bucket,) = resources(stack, "AWS::S3::Bucket").values()
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())
    variables = properties(stack, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert (variables["WINDOW_HOURS"], variables["EXPORT_PREFIX"]) == (f"{hours}", "results/")


@pytest.mark.parametrize(
    ("indexes", "props", "says"),
    [
        (["time"], {}, r"results must have the index 'status', got \['time'\]; add it with ResultsTable\(indexes="),
        (["status"], {"window": cdk.Duration.hours(5)}, "window must be whole hours that divide a day, got 18000 s"),
        (["status"], {"window": cdk.Duration.minutes(90)}, "window must be whole hours that divide a day, got 5400 s"),
        (["status"], {"window": cdk.Duration.minutes(5)}, "window must be 3,600 to 86,400 seconds, got 300"),
        (["status"], {"prefix": "results"}, "prefix must be folders of letters, .* got 'results'; use 'results/'"),
        (["status"], {"prefix": "a*/"}, r"prefix must be folders of letters, .* got 'a\*/'; use 'results/'"),
    ],
)
def test_what_it_cannot_export_fails(stack: cdk.Stack, indexes: Any, props: dict[str, Any], says: str) -> None:
    with pytest.raises(PropError, match=says):
        ResultsExport(stack, "Export", results=ResultsTable(stack, "Results", indexes=indexes), **props)
