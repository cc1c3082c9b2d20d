"""Indexes of the results table: made on request, granted by name, and known to the functions that write rows."""

from __future__ import annotations

import json

import pytest
from aws_cdk import CfnParameter
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from tests.constructs.conftest import resources

from cdk_inference import PropError, ResultsTable


def test_each_index_has_its_keys_and_those_of_the_row(stack):
    ResultsTable(stack, "Results", indexes=["prefix", "status"])
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    found = {
        index["IndexName"]: ([key["AttributeName"] for key in index["KeySchema"]], index["Projection"])
        for index in table["Properties"]["GlobalSecondaryIndexes"]
    }
    keys = {"ProjectionType": "KEYS_ONLY"}
    assert found == {"by-prefix": (["bucket", "key"], keys), "by-status": (["status", "recorded_at"], keys)}


def test_grants_name_the_indexes_and_no_pattern(stack, pipeline):
    results = ResultsTable(stack, "Results", indexes=["time"])
    results.grant_query(iam.User(stack, "Finder"))
    pipeline(results=results)
    policies = resources(stack, "AWS::IAM::Policy")
    (finder,) = [one for name, one in policies.items() if name.startswith("Finder")]
    (statement,) = finder["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query"]
    assert "index/by-time" in json.dumps(statement["Resource"])
    assert "index/*" not in json.dumps(policies)


@pytest.mark.parametrize("grant", ["grant_look_up", "grant_get", "grant_write_rows"])
def test_who_needs_no_index_gets_none(stack, grant):
    getattr(ResultsTable(stack, "Results", indexes=["time"]), grant)(iam.User(stack, "Finder"))
    ((policy,),) = [resources(stack, "AWS::IAM::Policy").values()]
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert list(statement["Resource"]) == ["Fn::GetAtt"]  # the table alone


def test_only_an_index_of_labels_changes_the_functions(stack, pipeline):
    pipeline(results=ResultsTable(stack, "Results", indexes=["label", "time"]))
    assert "LABEL_INDEX" in json.dumps(resources(stack, "AWS::Lambda::Function"))


def test_without_indexes_nothing_is_labelled(stack, pipeline):
    pipeline()
    assert "LABEL_INDEX" not in json.dumps(resources(stack, "AWS::Lambda::Function"))


def test_indexes_of_an_imported_table_are_granted(stack):
    theirs = ResultsTable.from_table_attributes(stack, "Results", table_name="rows", indexes=["label"])
    theirs.grant_read_data(iam.User(stack, "Reader"))
    assert "table/rows/index/by-label" in json.dumps(resources(stack, "AWS::IAM::Policy"))


@pytest.mark.parametrize(
    ("indexes", "message"),
    [
        (["colour"], "indexes must be 'prefix', 'time', 'status' or 'label', got 'colour'"),
        (["time", "time"], "indexes must be different, got 'time' twice"),
    ],
)
def test_an_index_that_does_not_exist_or_is_there_twice_fails(stack, indexes, message):
    with pytest.raises(PropError, match=message):
        ResultsTable(stack, "Results", indexes=indexes)


def test_a_table_and_its_indexes_are_warm_from_the_start(stack):
    warm = dynamodb.WarmThroughput(read_units_per_second=12_000, write_units_per_second=10_000)
    ResultsTable(stack, "Results", indexes=["time"], warm_throughput=warm)
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    (index,) = table["Properties"]["GlobalSecondaryIndexes"]
    expected = {"ReadUnitsPerSecond": 12_000, "WriteUnitsPerSecond": 10_000}
    assert table["Properties"]["WarmThroughput"] == index["WarmThroughput"] == expected


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({}, "warm_throughput must be read_units_per_second or write_units_per_second, got neither"),
        ({"write_units_per_second": 3_999}, "write_units_per_second of warm_throughput must be .* 4,000, .*got 3999"),
        ({"read_units_per_second": 12_000.5}, "read_units_per_second .* a whole number from 12,000, .*got 12000.5"),
    ],
)
def test_a_throughput_that_dynamodb_refuses_fails(stack, units, message):
    with pytest.raises(PropError, match=message):
        ResultsTable(stack, "Results", warm_throughput=dynamodb.WarmThroughput(**units))


def test_a_throughput_that_only_the_deployment_knows_passes(stack):
    units = CfnParameter(stack, "Units", type="Number").value_as_number
    ResultsTable(stack, "Results", warm_throughput=dynamodb.WarmThroughput(write_units_per_second=units))
    (table,) = resources(stack, "AWS::DynamoDB::GlobalTable").values()
    assert table["Properties"]["WarmThroughput"] == {"WriteUnitsPerSecond": {"Ref": "Units"}}


def test_who_exports_may_write_the_files_and_read_no_rows(stack):
    results, bucket = ResultsTable(stack, "Results"), s3.Bucket(stack, "Files", enforce_ssl=True)
    results.grant_export(iam.User(stack, "Exporter"), bucket)
    (policy,) = resources(stack, "AWS::IAM::Policy").values()
    allowed = {
        action: one["Resource"]
        for one in policy["Properties"]["PolicyDocument"]["Statement"]
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    assert allowed["dynamodb:ExportTableToPointInTime"] == stack.resolve(results.table.table_arn)
    assert allowed["s3:PutObject"] == stack.resolve(bucket.arn_for_objects("*"))
    assert not {action for action in allowed if action.startswith("dynamodb:") and "Export" not in action}
