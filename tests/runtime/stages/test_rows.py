"""Predictions in DynamoDB's types: what a user returns is what a reader gets, and its size is known beforehand."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from boto3.dynamodb.types import Binary, TypeDeserializer
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.stages.rows import ResultError, prediction_attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

numbers = st.integers(-(10**37), 10**37) | st.floats(-1e37, 1e37).filter(lambda x: x == 0 or abs(x) > 1e-100)
predictions = st.dictionaries(
    st.text(min_size=1),
    st.recursive(
        st.none() | st.booleans() | numbers | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
        max_leaves=10,
    ),
    max_size=4,
)


def as_stored(value: Any) -> Any:
    """Return what a reader must see: equal values, with numbers as decimals of the same text."""
    if isinstance(value, bytes):
        return Binary(value)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, float | int):
        return Decimal(str(value))
    if isinstance(value, list):
        return [as_stored(member) for member in value]
    return {name: as_stored(member) for name, member in value.items()}


@given(predictions)
def test_a_reader_gets_what_was_returned(prediction: dict[str, Any]) -> None:
    assert TypeDeserializer().deserialize(prediction_attribute(prediction)) == as_stored(prediction)


@pytest.mark.parametrize(
    "prediction",
    [
        {"v": [1] * 74_000},
        {"v": "ß" * 149_990},
        {"v": [0.1234567890123456] * 24_900},
        {"v": [True] * 149_990},
        {"v": bytes(299_990)},
    ],
    ids=["integers", "text", "floats", "booleans", "bytes"],
)
def test_the_largest_prediction_fits_a_row(dynamodb: DynamoDBClient, table: str, prediction: dict[str, Any]) -> None:
    attribute = prediction_attribute(prediction)
    row = {"object": {"S": "k" * 1100}, "version": {"S": "v"}, "reason": {"S": "r" * 500}, "prediction": attribute}
    dynamodb.put_item(TableName=table, Item=row)  # 400 KB are the limit here, too
    with pytest.raises(ResultError, match="at most 300,000"):
        prediction_attribute({"v": prediction["v"], "w": prediction["v"]})


def test_the_embedded_table_refuses_what_is_larger(dynamodb: DynamoDBClient, table: str) -> None:
    """Without this, the test above would show nothing."""
    with pytest.raises(boto3.client("dynamodb").exceptions.ClientError, match="size"):
        dynamodb.put_item(
            TableName=table, Item={"object": {"S": "k"}, "version": {"S": "v"}, "prediction": {"S": "x" * 410_000}}
        )
