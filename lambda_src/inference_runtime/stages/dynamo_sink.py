"""Rows in a table of DynamoDB, by botocore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import TIMEOUTS, error_code
from inference_runtime.stages.rows import put_request
from inference_runtime.stages.sinks import NeverWrittenError, NotWrittenError, SinkTimeoutError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.stages.rows import Attribute

NEVER_WRITTEN = frozenset({"ItemCollectionSizeLimitExceededException", "ValidationException"})
"""DynamoDB's errors that a row meets again, whenever it is written."""


class DynamoSink:
    """A table of DynamoDB.

    Parameters
    ----------
    dynamodb
        Thread-safe client.
    table
        Its name.
    """

    def __init__(self, dynamodb: DynamoDBClient, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Write a row; see `ResultSink`."""
        try:
            return put_row(self._dynamodb, self._table, attributes)
        except TIMEOUTS as error:
            raise SinkTimeoutError(str(error)) from error
        except (BotoCoreError, ClientError) as error:
            kind = NeverWrittenError if error_code(error) in NEVER_WRITTEN else NotWrittenError
            raise kind(str(error)) from error


def put_row(dynamodb: DynamoDBClient, table: str, attributes: dict[str, Attribute]) -> bool:
    """Write a row unless the table has a newer one, or has this one already; see `rows.put_request`.

    Returns
    -------
    bool
        Whether the row was written.
    """
    try:
        dynamodb.put_item(**put_request(table, attributes))
    except ClientError as error:
        if error_code(error) == "ConditionalCheckFailedException":
            return False
        raise
    return True
