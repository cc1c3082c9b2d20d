"""The table of labels: each label counts once, however often it is delivered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from inference_runtime.errors import RetryableError
from inference_runtime.retraining.labels import Label, LabelError
from inference_runtime.retraining.layout import COUNTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

AT_ONCE = 50
"""Labels in a transaction, next to the counter: DynamoDB takes 100 writes at once."""

_TRIES = 8
_CONDITION, _CONFLICT = "ConditionalCheckFailed", "TransactionConflict"
_NEW = "attribute_not_exists(#object) OR (#at < :at AND (#label <> :label OR #version_id <> :version_id))"
_SAID_AGAIN = "#at < :at AND #label = :label AND #version_id = :version_id"
_ATTRIBUTES = ("object", "bucket", "key", "version_id", "label", "by", "at", "accepted_at")


@dataclass(frozen=True)
class Count:
    """How many labels there are.

    Parameters
    ----------
    accepted
        Labels that were accepted so far. A label that changes counts again.
    selected
        The value of ``accepted`` when the last run selected its labels.
    """

    accepted: int
    selected: int

    @property
    def new(self) -> int:
        """How many labels no run has selected."""
        return self.accepted - self.selected


class LabelTable:
    """Writes labels for the objects of a bucket that have a row of results.

    Parameters
    ----------
    dynamodb
        A client of botocore.
    labels, runs, results
        Names of the tables.
    bucket
        The bucket of the objects.
    pause
        Waits for so many seconds. Default: ``time.sleep``.
    """

    def __init__(
        self,
        dynamodb: DynamoDBClient,
        *,
        labels: str,
        runs: str,
        results: str,
        bucket: str,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._dynamodb = dynamodb
        self._labels, self._runs, self._results, self._bucket = labels, runs, results, bucket
        self._pause = pause

    def check(self, label: Label) -> Label:
        """Return a label with the version of the object that it is about.

        Raises
        ------
        LabelError
            The object, or that version of it, was never scored.
        """
        scored = self._scored(label.key)
        if not scored:
            raise LabelError(f"key must be that of an object with a result, got {ascii(label.key)[:200]}")
        if not label.version_id:
            return Label(label.key, label.label, label.by, label.at, scored[-1])
        if label.version_id not in scored:
            raise LabelError(f"version_id must be one with a result, got {ascii(label.version_id)[:100]}")
        return label

    def _scored(self, key: str) -> list[str]:
        """Return the versions of an object that were scored, the newest last."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._results,
            KeyConditionExpression="#object = :object",
            ExpressionAttributeNames={"#object": "object"},
            ExpressionAttributeValues={":object": {"S": f"{self._bucket}/{key}"}},
        )
        rows = [item for page in pages for item in page["Items"]]
        rows.sort(key=lambda row: row.get("event_time", {"S": ""})["S"])
        return [row["version"]["S"].partition("#")[0] for row in rows]

    def write(self, labels: Sequence[Label], accepted_at: str) -> int:
        """Write labels, one for each object at most, and return how many were new.

        Each transaction writes labels and adds to the counter. So a label that comes again changes nothing, and neither
        does one that is not newer than that of the table. One that says the same later does not count either, but it
        outdates what was said in between.

        Raises
        ------
        RetryableError
            Others write the same labels, again and again.
        """
        return sum(
            self._write(labels[first : first + AT_ONCE], accepted_at) for first in range(0, len(labels), AT_ONCE)
        )

    def _write(self, labels: Sequence[Label], accepted_at: str) -> int:
        left = list(labels)
        for attempt in range(_TRIES):
            if not left:
                return 0
            try:
                self._dynamodb.transact_write_items(
                    TransactItems=[*(self._put(label, accepted_at) for label in left), self._add(len(left))]
                )
            except self._dynamodb.exceptions.TransactionCanceledException as error:
                codes = [reason.get("Code", "") for reason in error.response.get("CancellationReasons", [])]
                if not {_CONDITION, _CONFLICT} & set(codes):
                    raise
                for label in (label for label, code in zip(left, codes, strict=False) if code == _CONDITION):
                    self._say_again(label)
                left = [label for label, code in zip(left, codes, strict=False) if code != _CONDITION]
                if _CONFLICT in codes:
                    self._pause(0.05 * 2**attempt)
            except ClientError as error:
                if error.response["Error"]["Code"] != "TransactionInProgressException":
                    raise
                self._pause(0.05 * 2**attempt)
            else:
                return len(left)
        if left:
            raise RetryableError(f"cannot write {len(left)} labels: others change them, {_TRIES} times in a row")
        return 0

    def _put(self, label: Label, accepted_at: str) -> Any:  # noqa: ANN401 - a member of a request
        values = (
            f"{self._bucket}/{label.key}",
            self._bucket,
            label.key,
            label.version_id,
            label.label,
            label.by,
            label.at,
            accepted_at,
        )
        return {
            "Put": {
                "TableName": self._labels,
                "Item": {name: {"S": value} for name, value in zip(_ATTRIBUTES, values, strict=True)},
                "ConditionExpression": _NEW,
                "ExpressionAttributeNames": {f"#{name}": name for name in ("object", "at", "label", "version_id")},
                "ExpressionAttributeValues": _values(label),
            }
        }

    def _say_again(self, label: Label) -> None:
        """Note that the label of the table was said once more, later."""
        try:
            self._dynamodb.update_item(
                TableName=self._labels,
                Key={"object": {"S": f"{self._bucket}/{label.key}"}},
                UpdateExpression="SET #at = :at, #by = :by",
                ConditionExpression=_SAID_AGAIN,
                ExpressionAttributeNames={f"#{name}": name for name in ("at", "by", "label", "version_id")},
                ExpressionAttributeValues={**_values(label), ":by": {"S": label.by}},
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise

    def _add(self, number: int) -> Any:  # noqa: ANN401 - a member of a request
        return {
            "Update": {
                "TableName": self._runs,
                "Key": {"record": {"S": COUNTER}},
                "UpdateExpression": "ADD accepted :number",
                "ExpressionAttributeValues": {":number": {"N": str(number)}},
            }
        }


def _values(label: Label) -> dict[str, Any]:
    return {f":{name}": {"S": getattr(label, name)} for name in ("at", "label", "version_id")}


def count(dynamodb: DynamoDBClient, runs: str) -> Count:
    """Return how many labels there are, by the counter of a table of runs."""
    item = dynamodb.get_item(TableName=runs, Key={"record": {"S": COUNTER}}, ConsistentRead=True).get("Item", {})
    accepted, selected = (int(item.get(name, {"N": "0"})["N"]) for name in ("accepted", "selected"))
    return Count(accepted, selected)


def all_labels(dynamodb: DynamoDBClient, table: str) -> Iterable[dict[str, str]]:
    """Yield every label of a table, with its attributes by name."""
    for page in dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            yield {name: value["S"] for name, value in item.items()}
