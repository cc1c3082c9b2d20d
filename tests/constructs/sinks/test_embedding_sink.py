"""The sink for embeddings: its index, what its parts may do, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from tests.constructs.conftest import make_stack, resources
from tests.constructs.sinks.test_results_export import properties, statements

from cdk_inference import EmbeddingSink, PropError, ResultsTable

ARN = "arn:aws:s3vectors:eu-central-1:111122223333:bucket/embeddings/index/photos"


@pytest.fixture(scope="module")
def made() -> cdk.Stack:
    """A sink with a key, and who queries it."""
    stack = make_stack()
    results = ResultsTable(stack, "Results", encryption_key=kms.Key(stack, "TableKey"))
    sink = EmbeddingSink(stack, "Sink", results=results, dimension=384, encryption_key=kms.Key(stack, "Key"))
    sink.grant_query(iam.User(stack, "Reader"))
    return stack


def test_the_index_is_encrypted_and_retained_and_takes_what_the_function_sends(made: cdk.Stack) -> None:
    index = properties(made, "AWS::S3Vectors::Index")
    assert (index["Dimension"], index["DataType"], index["DistanceMetric"]) == (384, "float32", "cosine")
    assert index["MetadataConfiguration"] == {"NonFilterableMetadataKeys": ["object", "version"]}
    bucket = properties(made, "AWS::S3Vectors::VectorBucket")
    assert bucket["EncryptionConfiguration"]["SseType"] == "aws:kms"
    for kind in ("AWS::S3Vectors::Index", "AWS::S3Vectors::VectorBucket"):
        assert {each["DeletionPolicy"] for each in resources(made, kind).values()} == {"RetainExceptOnCreate"}
    variables = properties(made, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert (variables["DIMENSION"], variables["DISTANCE_METRIC"]) == ("384", "cosine")
    (key,) = (each for name, each in resources(made, "AWS::KMS::Key").items() if name.startswith("Key"))
    assert "indexing.s3vectors.amazonaws.com" in json.dumps(key["Properties"]["KeyPolicy"])


def test_the_function_reads_the_stream_and_changes_the_index_and_nothing_else(made: cdk.Stack) -> None:
    allowed = [
        (action, where) for action, where in statements(made, "SinkFunction") if "*" not in json.loads(where)[:1]
    ]
    of_data = {action for action, _ in allowed if action.startswith(("s3", "dynamodb:", "sqs:"))}
    assert of_data == {
        "dynamodb:DescribeStream",
        "dynamodb:GetRecords",
        "dynamodb:GetShardIterator",
        "s3vectors:DeleteVectors",
        "s3vectors:PutVectors",
        "sqs:SendMessage",
    }
    everywhere = {action for action, where in statements(made, "SinkFunction") if json.loads(where)[0] == "*"}
    assert {action for action in everywhere if not action.startswith("xray:")} == {"dynamodb:ListStreams"}
    keys = [where for action, where in allowed if action == "kms:GenerateDataKey"]
    assert all("TableKey" not in where for where in keys)


def test_a_reader_may_query_and_not_change(made: cdk.Stack) -> None:
    assert {action for action, _ in statements(made, "Reader")} == {
        "kms:Decrypt",
        "s3vectors:GetVectors",
        "s3vectors:QueryVectors",
    }


def test_changes_are_tried_again_from_where_they_failed(made: cdk.Stack) -> None:
    mapping = properties(made, "AWS::Lambda::EventSourceMapping")
    assert (mapping["BatchSize"], mapping["StartingPosition"]) == (500, "TRIM_HORIZON")
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert (mapping["BisectBatchOnFunctionError"], mapping["MaximumRecordAgeInSeconds"]) == (True, 86_400)
    assert "DeadLetterQueue" in json.dumps(mapping["DestinationConfig"])
    (table,) = resources(made, "AWS::DynamoDB::GlobalTable")
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": [table, "StreamArn"]}


def test_an_index_of_the_user_is_used(stack: cdk.Stack) -> None:
    results = ResultsTable(stack, "Results")
    EmbeddingSink(stack, "Sink", results=results, dimension=3, distance_metric="euclidean", index_arn=ARN)
    assert not resources(stack, "AWS::S3Vectors::Index")
    assert dict(statements(stack, "SinkFunction"))["s3vectors:PutVectors"] == json.dumps([ARN, None])


@pytest.mark.parametrize(
    ("props", "says"),
    [
        ({"dimension": 0}, "dimension must be 1 to 4,096, got 0"),
        ({"dimension": 4097}, "dimension must be 1 to 4,096, got 4097"),
        ({"distance_metric": "dot"}, "distance_metric must be .*'cosine'"),
        ({"attribute": ""}, "attribute must name the member of predictions"),
        ({"index_arn": "photos"}, "index_arn must be the ARN of an index of S3 Vectors, got 'photos'"),
        ({"max_batching_window": cdk.Duration.minutes(9)}, "max_batching_window must be 0 to 300 seconds, got 540"),
    ],
)
def test_what_no_index_takes_fails(stack: cdk.Stack, props: dict[str, Any], says: str) -> None:
    with pytest.raises(PropError, match=says):
        EmbeddingSink(stack, "Sink", results=ResultsTable(stack, "Results"), **{"dimension": 3, **props})


def test_an_imported_table_without_its_stream_fails(stack: cdk.Stack) -> None:
    results = ResultsTable.from_table_name(stack, "Results", "rows")
    with pytest.raises(PropError, match="table_stream_arn of the imported table"):
        EmbeddingSink(stack, "Sink", results=results, dimension=3)
