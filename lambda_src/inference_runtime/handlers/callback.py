"""Handler of the callback function: gives what SageMaker announces to the workflow that waits for it.

SNS delivers at least once and in any order, so an announcement may come twice, or when the workflow has long gone on.
It is then logged and dropped. A failure of a service is raised: Lambda tries again, and after that the announcement is
in a queue, and the workflow's task times out.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client, error_code
from inference_runtime.environment import required
from inference_runtime.errors import BatchTooLargeError, RetryableError
from inference_runtime.lifecycle import answers_warming
from inference_runtime.notification import OUTPUT_ERROR, OUTPUT_LOST, Failure, Notification

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

LIMIT = 262_144
"""Most bytes that a workflow takes as the answer."""

_MAX_CAUSE = 1000
_MISSING = frozenset({"NoSuchKey", "404", "AccessDenied", "403"})  # without the right to list, missing is denied
_OVER = frozenset({"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"})

_table = required("TOKENS_TABLE")
_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_workflows: SFNClient = client("stepfunctions")
_log = logging.getLogger(__name__)


@answers_warming
def handler(event: dict[str, Any], context: object) -> None:  # noqa: ARG001 - Lambda's signature
    """Answer the tasks that SageMaker's notifications are for.

    Parameters
    ----------
    event
        SNS's: `{"Records": [{"Sns": {"Message"}}]}`.
    context
        Unused.

    Raises
    ------
    RetryableError
        A service is out of order.
    """
    for record in event["Records"]:
        message = record["Sns"]["Message"]
        try:
            notification = Notification.parse(message)
        except ValueError as error:
            _log.error("ignored a message: %s: %.1000s", error, message)
            continue
        _answer(notification)


def _answer(notification: Notification) -> None:
    token = _token(notification.inference_id)
    if token is None:
        _log.error("ignored an answer to %s: nobody waits for it", notification.inference_id)
        return
    answer = notification.failure or _output(notification)
    try:
        if isinstance(answer, Failure):
            # As Lambda reports an error, so that the workflow reads both in the same way.
            cause = {"errorType": answer.error, "errorMessage": answer.cause[:_MAX_CAUSE]}
            _workflows.send_task_failure(taskToken=token, error=answer.error[:256], cause=json.dumps(cause))
        else:
            _workflows.send_task_success(taskToken=token, output=answer)
    except (BotoCoreError, ClientError) as error:
        if error_code(error) not in _OVER:
            raise RetryableError(f"cannot answer the workflow: {error}") from error
        _log.warning("ignored an answer to %s: it is late, or the second one", notification.inference_id)


def _token(inference_id: str) -> str | None:
    try:
        row = _dynamodb.get_item(TableName=_table, Key={"inference_id": {"S": inference_id}}, ConsistentRead=True)
    except (BotoCoreError, ClientError) as error:
        raise RetryableError(f"cannot read table {_table}: {error}") from error
    return row["Item"]["token"]["S"] if "Item" in row else None


def _output(notification: Notification) -> str | Failure:
    """Return the task's output, or why there is none."""
    place = f"s3://{notification.bucket}/{notification.key}"
    try:
        body = _s3.get_object(Bucket=notification.bucket, Key=notification.key)["Body"].read(LIMIT + 1)
    except (BotoCoreError, ClientError) as error:
        if error_code(error) in _MISSING:
            return Failure(OUTPUT_LOST, f"the output is not at {place}: {error}")
        raise RetryableError(f"cannot read {place}: {error}") from error
    try:
        answer = json.loads(body, parse_constant=_refuse) if len(body) <= LIMIT else None
        output = json.dumps({"Payload": answer}, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        return Failure(OUTPUT_ERROR, f"the output at {place} is not JSON, perhaps truncated: {error}")
    if len(body) > LIMIT or len(output) > LIMIT:
        return Failure(BatchTooLargeError.__name__, f"the output at {place} is larger than {LIMIT:,} bytes")
    if not isinstance(answer, dict) or not isinstance(answer.get("groups"), list):
        return Failure(OUTPUT_ERROR, f"the output at {place} has no groups: {body[:100]!r}")
    return output


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
