"""Handler of the function that keeps a vector index like the rows of a results table.

It gets the changes of the table from its stream, in the order of each row. A vector has the key of its row, so that a
change that comes again changes nothing.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.errors import reason_of
from inference_runtime.export.vectors import IndexSpec, VectorError, key_of, vector_of
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_VECTORS = 500
"""Most vectors of one request."""

MAX_NUMBERS = 700_000
"""Most numbers of one request: with up to 26 characters each, they are less than the 20 MiB that S3 Vectors takes."""

_INVALID = "ValidationException"

_index = required("VECTOR_INDEX")
_spec = IndexSpec(int(required("DIMENSION")), required("DISTANCE_METRIC") == "cosine", required("EMBEDDING_ATTRIBUTE"))
_dead_letter_queue = required("DEAD_LETTER_QUEUE")
_vectors = client("s3vectors")
_sqs = client("sqs")
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Put the vectors of new rows, and delete those of rows that are gone or have none any more.

    Parameters
    ----------
    event
        That of a table's stream: `{"Records": [{"eventName", "dynamodb"}]}`.
    context
        Unused.

    Returns
    -------
    dict
        `batchItemFailures`: the first record that could not be handled now, from which on Lambda tries again. A vector
        that the index never takes, or S3 Vectors calls invalid, goes to the dead-letter queue with the keys of its row.
    """
    for records in _parts(event["Records"]):
        try:
            _apply(records)
        except (BotoCoreError, ClientError):
            _log.exception("cannot change the index")
            return {"batchItemFailures": [{"itemIdentifier": records[0]["dynamodb"]["SequenceNumber"]}]}
    return {"batchItemFailures": []}


def _parts(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the records in parts whose vectors fit one request."""
    most = max(1, min(MAX_VECTORS, MAX_NUMBERS // _spec.dimension))
    for first in range(0, len(records), most):
        yield records[first : first + most]


def _apply(records: list[dict[str, Any]]) -> None:
    """Do what the last change of each row asks for."""
    put: dict[str, dict[str, Any]] = {}
    gone: dict[str, None] = {}
    refused: dict[str, str] = {}
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        change = record["dynamodb"]
        key = key_of(change["Keys"])
        rows[key] = {name: change["Keys"][name]["S"] for name in ("object", "version")}
        put.pop(key, None)
        refused.pop(key, None)
        vector = None
        try:
            vector = vector_of(change.get("NewImage", {}), _spec)
        except (VectorError, LookupError, TypeError, ValueError, OverflowError) as error:
            refused[key] = reason_of(error)  # the row may be somebody else's
        if vector is not None:
            put[key] = vector
            gone.pop(key, None)
        elif record["eventName"] != "INSERT":  # a new row has no vector yet
            gone[key] = None
    invalid = dict(_put(list(put.values())))
    gone |= dict.fromkeys(invalid)  # the index may have an earlier vector of the row
    if gone:
        _vectors.delete_vectors(indexArn=_index, keys=list(gone))
    for key, cause in (refused | invalid).items():
        _bury(rows[key], cause)


def _put(vectors: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Put vectors, and yield the keys of those that are invalid to S3 Vectors, with the causes.

    S3 Vectors takes all vectors of a request or none, so that halves of it find the invalid ones.
    """
    if not vectors:
        return
    try:
        _vectors.put_vectors(indexArn=_index, vectors=vectors)
    except ClientError as error:
        if error_code(error) != _INVALID:
            raise
        if len(vectors) == 1:
            yield vectors[0]["key"], reason_of(error)
            return
        middle = len(vectors) // 2
        yield from _put(vectors[:middle])
        yield from _put(vectors[middle:])


def _bury(row: dict[str, str], cause: str) -> None:
    """Send the keys of a row whose vector the index never takes to the dead-letter queue."""
    _log.error("the index takes no vector of %s: %s", row, cause)
    said = {"Error": VectorError.__name__, "Cause": cause}
    _sqs.send_message(
        QueueUrl=_dead_letter_queue,
        MessageBody=json.dumps(row),
        MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in said.items()},
    )
