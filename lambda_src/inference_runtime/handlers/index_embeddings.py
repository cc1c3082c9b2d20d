"""Handler of the function that keeps a vector index like the rows of a results table.

It gets the changes of the table from its stream, in the order of each row. A vector has the key of its row, so that a
change that comes again changes nothing.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client
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
        that the index never takes goes to the dead-letter queue with the keys of its row.
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
    refused: dict[str, tuple[dict[str, Any], str]] = {}
    for record in records:
        change = record["dynamodb"]
        key = key_of(change["Keys"])
        put.pop(key, None)
        refused.pop(key, None)
        vector = None
        try:
            vector = vector_of(change.get("NewImage", {}), _spec)
        except (VectorError, LookupError, TypeError, ValueError) as error:  # the row may be somebody else's
            refused[key] = change["Keys"], reason_of(error)
        if vector is not None:
            put[key] = vector
            gone.pop(key, None)
        elif record["eventName"] != "INSERT":  # a new row has no vector yet
            gone[key] = None
    if put:
        _vectors.put_vectors(indexArn=_index, vectors=list(put.values()))
    if gone:
        _vectors.delete_vectors(indexArn=_index, keys=list(gone))
    for keys, cause in refused.values():
        _bury({name: keys[name]["S"] for name in ("object", "version")}, cause)


def _bury(row: dict[str, str], cause: str) -> None:
    """Send the keys of a row whose vector the index never takes to the dead-letter queue."""
    _log.error("the index takes no vector of %s: %s", row, cause)
    said = {"Error": VectorError.__name__, "Cause": cause}
    _sqs.send_message(
        QueueUrl=_dead_letter_queue,
        MessageBody=json.dumps(row),
        MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in said.items()},
    )
