"""Handler of the function that writes the events of a queue into an audit log."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.audit.records import files, lines, record
from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_WRITTEN_BEFORE = "PreconditionFailed"

_s3: S3Client = client("s3")
_bucket = required("AUDIT_BUCKET")
_secret = client("secretsmanager").get_secret_value(SecretId=required("AUDIT_SECRET"))["SecretString"].encode()
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Write each message as a record, in one file for each pipeline and day, and never over a file.

    Returns
    -------
    dict
        ``batchItemFailures``: other messages than our events, and those whose file S3 did not take.
    """
    failed: list[str] = []
    told: list[dict[str, Any]] = []
    senders: dict[str, list[str]] = {}
    for message in event["Records"]:
        try:
            one = record(json.loads(message["body"]), _secret)
        except (ValueError, KeyError, TypeError):
            _log.exception("cannot read message %s", message["messageId"])
            failed.append(message["messageId"])
        else:
            told.append(one)
            senders.setdefault(one["record"], []).append(message["messageId"])
    for key, records in files(told).items():
        try:
            _s3.put_object(
                Bucket=_bucket,
                Key=key,
                Body=lines(records),
                ContentType="application/jsonl",
                IfNoneMatch="*",
            )
        except (BotoCoreError, ClientError) as error:
            if error_code(error) == _WRITTEN_BEFORE:
                continue
            _log.exception("cannot write %s", key)
            failed += [sender for one in records for sender in senders[one["record"]]]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}
