"""Where rows go: a table of DynamoDB in AWS, and other stores elsewhere; see `inference_runtime.anywhere`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import TIMEOUTS, error_code
from inference_runtime.stages.rows import put_row

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.stages.rows import Attribute

NEVER_WRITTEN = frozenset({"ItemCollectionSizeLimitExceededException", "ValidationException"})
"""DynamoDB's errors that a row meets again, whenever it is written."""


class NotWrittenError(Exception):
    """The row cannot be written now."""


class SinkTimeoutError(NotWrittenError):
    """The store did not answer, so that the rest of the batch would take as long."""


class NeverWrittenError(Exception):
    """The store refuses this row, whenever it is written."""


class ResultSink(Protocol):
    """A store of rows, which threads share."""

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Write a row unless the store has a newer one, or has this one already; see `rows.put_row`.

        Parameters
        ----------
        attributes
            The row, as `rows.row` makes it.

        Returns
        -------
        bool
            Whether the row was written.

        Raises
        ------
        NotWrittenError
            The row cannot be written now.
        NeverWrittenError
            The store refuses the row.
        """


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
