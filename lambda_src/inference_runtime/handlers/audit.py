"""Handler of the function that writes the events of a queue into an audit log."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.audit.records import files, lines, model_change, record
from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError
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

    A request of CloudFormation is about models that a deployment changes. It is written in the same way, and answered.

    Returns
    -------
    dict
        ``batchItemFailures``: other messages than our events, and those whose file S3 did not take.
    """
    if "RequestType" in event:
        _record_models(event)
        return {"batchItemFailures": []}
    return _write(event["Records"])


def _write(messages: list[dict[str, Any]]) -> dict[str, Any]:
    failed: list[str] = []
    told: list[dict[str, Any]] = []
    senders: dict[str, list[str]] = {}
    for message in messages:
        try:
            one = record(json.loads(message["body"]), _secret)
        except (AttributeError, LookupError, TypeError, ValueError):
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


def _record_models(request: dict[str, Any]) -> None:
    """Write a change of models, and let the deployment go on; without the record, it must not."""
    from urllib.request import Request, urlopen  # noqa: PLC0415 - only in deployments

    if request["RequestType"] != "Delete":
        message = model_change(request, datetime.now(UTC).isoformat(timespec="seconds"))
        if message is not None and _write([{"messageId": "", "body": json.dumps(message)}])["batchItemFailures"]:
            raise RetryableError("cannot record the models of a deployment; see the log for the reason")
    answer = {name: request[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"Status": "SUCCESS", "PhysicalResourceId": request["LogicalResourceId"]}
    url = request["ResponseURL"]  # a presigned one of CloudFormation's
    urlopen(Request(url, json.dumps(answer).encode(), {"Content-Type": ""}, method="PUT"), timeout=10).close()  # noqa: S310
