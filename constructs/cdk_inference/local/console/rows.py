"""The rows of a results table, as far as a page shows them."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from cdk_inference.common.json_values import mapping
from cdk_inference.local.uploads import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MARGIN_MS = 10_000  # rows are not written in the order of their times
_MOST_TEXT = 300  # characters of a reason or a summary
_COPIED = ("object", "version", "bucket", "key", "status", "etag", "route", "variant", "inference")

Row = dict[str, Any]


class Rows:
    """The rows of one pipeline in a results table, the newest first.

    The first `refresh` reads the whole table. Later ones read what was recorded since, unless rows have disappeared.

    Parameters
    ----------
    dynamodb
        Client of DynamoDB.
    table
        Name of the table; None if there are no rows.
    prefixes
        The beginning of the keys of the pipeline's items, by what rows name as their bucket. Others may write to the
        table, too.
    """

    def __init__(self, dynamodb: Any, table: str | None, prefixes: Mapping[str, str]) -> None:  # noqa: ANN401
        self._dynamodb = dynamodb
        self._table = table
        self._prefixes = prefixes
        self._known: dict[tuple[str, str], Row | None] = {}
        self._sorted: list[Row] = []
        self._since = 0

    def refresh(self) -> bool:
        """Read what is new, and tell whether anything is."""
        if self._table is None:
            return False
        changed = self._read(self._since - _MARGIN_MS)
        if self._count() != len(self._known):
            before, self._known = self._known, {}
            self._read(0)
            changed = changed or self._known != before
        if changed:
            mine = (row for row in self._known.values() if row is not None)
            self._sorted = sorted(mine, key=lambda row: (row["recorded_at"], row["key"]), reverse=True)
        return changed

    def find(self, *, search: str = "", statuses: tuple[str, ...] = (), skip: int = 0, most: int = 200) -> list[Row]:
        """Return rows, the newest first.

        Parameters
        ----------
        search
            A part of the keys or labels, in whatever case. Default: all.
        statuses
            Only rows with one of these. Default: with any.
        skip
            How many of the newest to leave out.
        most
            How many to return.
        """
        wanted = search.casefold()
        found = [
            row
            for row in self._sorted
            if (not statuses or row["status"] in statuses)
            and (wanted in row["key"].casefold() or wanted in str(row["label"] or "").casefold())
        ]
        return found[skip : skip + most]

    def all(self) -> Iterator[Row]:
        """Yield the rows, the newest first."""
        yield from self._sorted

    def statuses(self) -> Counter[str]:
        """Count the rows by their status."""
        return Counter(row["status"] for row in self._sorted)

    def whole(self, ids: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Yield all attributes of some rows, as they are now; those that are gone are left out.

        Parameters
        ----------
        ids
            Their objects and versions.
        """
        for one, version in ids:
            key = {"object": {"S": one}, "version": {"S": version}}
            found = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
            if "Item" in found:
                yield values(found["Item"])

    def _count(self) -> int:
        return int(self._dynamodb.describe_table(TableName=self._table)["Table"]["ItemCount"])

    def _read(self, since: int) -> bool:
        only: dict[str, Any] = {}
        if since > 0:
            moment = datetime.fromtimestamp(since / 1000, UTC).isoformat(timespec="milliseconds")
            only = {
                "FilterExpression": "recorded_at > :since",
                "ExpressionAttributeValues": {":since": {"S": moment}},
            }
        changed = False
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True, **only)
        for page in pages:
            for item in page["Items"]:
                changed = self._take(item) or changed
        return changed

    def _take(self, item: Mapping[str, Any]) -> bool:
        row = values(item)
        at = milliseconds(row["recorded_at"])
        self._since = max(self._since, at)
        id = (str(row["object"]), str(row["version"]))
        prefix = self._prefixes.get(str(row.get("bucket")))
        mine = prefix is not None and str(row["key"]).startswith(prefix)
        short = _short(row, at) if mine else None
        if id in self._known and self._known[id] == short:
            return False
        self._known[id] = short
        return True


def values(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of DynamoDB with values of JSON."""
    read = TypeDeserializer().deserialize
    return {name: plain(read(value)) for name, value in item.items()}


def milliseconds(moment: object) -> int:
    """Return a moment in ISO 8601 in milliseconds since the epoch; 0 if it is something else."""
    try:
        return round(datetime.fromisoformat(str(moment)).timestamp() * 1000)
    except ValueError:
        return 0


def _short(row: Mapping[str, Any], at: int) -> Row:
    prediction = mapping(row.get("prediction"))
    label, score = prediction.get("label"), prediction.get("score")
    confidence = row.get("confidence", score)
    happened = milliseconds(row.get("event_time"))
    detections = prediction.get("detections")
    return {name: row.get(name) for name in _COPIED} | {
        "label": label if isinstance(label, str) else None,
        "confidence": float(confidence) if _is_number(confidence) else None,
        "summary": "" if isinstance(label, str) else _summary(prediction),
        "boxes": len(detections) if isinstance(detections, list) else 0,
        "explained": "explanation" in row,
        "model": row.get("model_version"),
        "reason": str(row["reason"])[:_MOST_TEXT] if row.get("reason") else None,
        "size": row.get("size"),
        "recorded_at": at,
        "event_time": happened,
        "milliseconds": at - happened if happened else None,
    }


def _summary(prediction: Mapping[str, Any]) -> str:
    """Return a prediction without a label in one line."""
    if isinstance(found := prediction.get("detections"), list):
        labels = Counter(str(one.get("label")) for one in found if isinstance(one, dict))
        return ", ".join(f"{count} {label}" for label, count in labels.most_common(5)) or "nothing found"
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in prediction.items()
    )[:_MOST_TEXT]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
