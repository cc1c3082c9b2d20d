"""Handler of the submit function: hands a batch to SageMaker, whose answer comes to the callback function.

The workflow waits with a task token, which is longer than anything that SageMaker would send back. So the token is
kept in a table, under an id made from it.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from inference_runtime.aws import client
from inference_runtime.environment import required
from inference_runtime.errors import RetryableError
from inference_runtime.lifecycle import answers_warming

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

REQUESTS = "sagemaker/requests"
"""Where requests go in the work bucket."""

_TOKEN_SECONDS = 2 * 24 * 60 * 60  # no request waits or runs that long
_CONTENT_TYPE = "application/json"

_table = required("TOKENS_TABLE")
_bucket = required("WORK_BUCKET")
_endpoint = required("ENDPOINT")
_timeout = int(required("INVOCATION_TIMEOUT"))
_dynamodb: DynamoDBClient = client("dynamodb")
_s3: S3Client = client("s3")
_sagemaker = client("sagemaker-runtime")


@answers_warming
def handler(event: dict[str, Any], context: object) -> dict[str, str]:  # noqa: ARG001 - Lambda's signature
    """Put a batch into SageMaker's queue.

    Parameters
    ----------
    event
        `token` is that of the task that waits for the answer. `request` is the event of the inference handler. `wait`
        is how many seconds the request may stay in the queue.
    context
        Unused.

    Returns
    -------
    dict
        `inference_id`. The workflow does not see it: it gets what the callback function sends.

    Raises
    ------
    RetryableError
        SageMaker, the table or the bucket does not take it. Nor does SageMaker if there is no endpoint yet, or if the
        role may not use it. The model has not run then, so the objects are not the cause.
    """
    token = event["token"]
    # A replay of the same invocation writes the same, and at worst asks the model twice.
    inference_id = hashlib.sha256(token.encode()).hexdigest()
    key = f"{REQUESTS}/{inference_id}.json"
    try:
        # The token comes first: the answer may arrive before what follows the call.
        _dynamodb.put_item(
            TableName=_table,
            Item={
                "inference_id": {"S": inference_id},
                "token": {"S": token},
                "expires_at": {"N": str(int(time.time()) + _TOKEN_SECONDS)},
            },
        )
        _s3.put_object(Bucket=_bucket, Key=key, Body=json.dumps(event["request"]).encode(), ContentType=_CONTENT_TYPE)
        _sagemaker.invoke_endpoint_async(
            EndpointName=_endpoint,
            InferenceId=inference_id,
            InputLocation=f"s3://{_bucket}/{key}",
            ContentType=_CONTENT_TYPE,
            Accept=_CONTENT_TYPE,
            RequestTTLSeconds=int(event["wait"]),  # a JSONata number
            InvocationTimeoutSeconds=_timeout,
        )
    except (BotoCoreError, ClientError) as error:
        raise RetryableError(f"cannot hand the batch to endpoint {_endpoint}: {error}") from error
    return {"inference_id": inference_id}
