"""Reads the rows that were recorded in a window, a few at a time."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from mypy_boto3_dynamodb import DynamoDBClient

    from inference_runtime.export.window import Window

    Row = dict[str, Any]
    """A row, in DynamoDB's types."""

STATUSES = ("FAILED", "REJECTED", "SUCCEEDED")
"""The partitions of the index: together they have all rows, whatever their bucket is."""

_AT_ONCE = 15  # rows of an answer: of 300 KB of small numbers, one takes 30 MB as Python's objects
_AHEAD = 2  # answers in memory; each is there twice while botocore reads it
_TRIES = 8  # that bring nothing
_FIRST_PAUSE = 0.1  # seconds


class RowReader:
    """Reads rows by the table's index of statuses, which has their keys alone.

    Parameters
    ----------
    dynamodb
        Thread-safe client.
    table, index
        Their names.
    """

    def __init__(self, dynamodb: DynamoDBClient, *, table: str, index: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._index = index

    def rows(self, window: Window) -> Iterator[Row]:
        """Yield the rows of a window, by status and time, as far as the table still has them.

        A row that was replaced after the window belongs to the window of its successor.

        Raises
        ------
        RetryableError
            If DynamoDB goes on leaving rows out of its answers.
        """
        pool = ThreadPoolExecutor(_AHEAD)
        try:
            waiting: deque[Future[list[Row]]] = deque()
            for keys in self._keys(window):
                waiting.append(pool.submit(self._read, keys))
                if len(waiting) == _AHEAD:
                    yield from _within(window, waiting.popleft().result())
            while waiting:
                yield from _within(window, waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _keys(self, window: Window) -> Iterator[list[Row]]:
        """Yield the keys of rows, as many as one request may ask for."""
        for status in STATUSES:
            pages = self._dynamodb.get_paginator("query").paginate(
                TableName=self._table,
                IndexName=self._index,
                KeyConditionExpression="#status = :status AND recorded_at BETWEEN :first AND :last",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":status": {"S": status},
                    ":first": {"S": window.first},
                    ":last": {"S": window.last},
                },
            )
            for page in pages:
                found = page["Items"]
                for first in range(0, len(found), _AT_ONCE):
                    yield [
                        {name: one[name] for name in ("object", "version")} for one in found[first : first + _AT_ONCE]
                    ]

    def _read(self, keys: list[Row]) -> list[Row]:
        """Return the rows of some keys, in their order."""
        found: dict[tuple[str, str], Row] = {}
        left: Any = {self._table: {"Keys": keys}}
        fruitless = 0
        while fruitless < _TRIES:
            answer = self._dynamodb.batch_get_item(RequestItems=left)
            new = answer["Responses"].get(self._table, [])
            found |= {_key(row): row for row in new}
            left = answer.get("UnprocessedKeys")
            if not left:
                return [row for key in keys if (row := found.get(_key(key))) is not None]
            if not new:  # what is left out of a large answer comes at once, and what is throttled later
                time.sleep(_FIRST_PAUSE * 2**fruitless)
                fruitless += 1
        raise RetryableError(f"DynamoDB leaves out {len(left[self._table]['Keys'])} rows of {self._table}")


def _key(row: Row) -> tuple[str, str]:
    return row["object"]["S"], row["version"]["S"]


def _within(window: Window, rows: list[Row]) -> list[Row]:
    return [row for row in rows if window.first <= row["recorded_at"]["S"] <= window.last]
