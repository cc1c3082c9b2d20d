"""The callback function against an embedded AWS: a workflow that waits, and answers of every kind."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.runtime.handlers.test_notification import COMPLETED, FAILED
from tests.waiting import wait_until

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

ANSWER = {
    "groups": [{"indices": [0], "outputs": {"y": {"dtype": "uint8", "shape": [1], "bucket": "b", "key": "tensors/1"}}}],
    "model_version": "m1",
    "inference": "gpu",
}
_numbers = itertools.count()


class Waiting:
    """An execution that waits for an answer, and SageMaker, which gives it."""

    def __init__(self, s3: S3Client, dynamodb: DynamoDBClient, bucket: str, table: str) -> None:
        self._s3, self._dynamodb, self._bucket, self._table = s3, dynamodb, bucket, table
        self._workflows: SFNClient = boto3.client("stepfunctions")
        self._arn = ""

    def start(self, timeout: int = 600) -> str:
        """Start an execution, and return the id of its request."""
        name = f"waits-{next(_numbers)}-{time.time_ns()}"
        sqs = boto3.client("sqs")
        queue = sqs.create_queue(QueueName=name)["QueueUrl"]
        task = {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Arguments": {"QueueUrl": queue, "MessageBody": "{% $states.context.Task.Token %}"},
            "TimeoutSeconds": timeout,
            "Output": "{% $states.result.Payload %}",
            "End": True,
        }
        machine = self._workflows.create_state_machine(
            name=name,
            roleArn="arn:aws:iam::000000000000:role/any",
            definition=json.dumps({"QueryLanguage": "JSONata", "StartAt": "Wait", "States": {"Wait": task}}),
        )["stateMachineArn"]
        self._arn = self._workflows.start_execution(stateMachineArn=machine)["executionArn"]
        while not (messages := sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20).get("Messages")):
            pass
        (message,) = messages
        inference_id = hashlib.sha256(message["Body"].encode()).hexdigest()
        self._dynamodb.put_item(
            TableName=self._table, Item={"inference_id": {"S": inference_id}, "token": {"S": message["Body"]}}
        )
        return inference_id

    def completed(self, inference_id: str, output: bytes | None) -> dict[str, Any]:
        """Return the event of an inference that is over, with its output where it says."""
        key = f"sagemaker/answers/{inference_id}.out"
        if output is not None:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=output)
        place = {"contentType": "application/json", "outputLocation": f"s3://{self._bucket}/{key}"}
        return event({**COMPLETED, "inferenceId": inference_id, "responseParameters": place})

    def end(self) -> dict[str, Any]:
        """Wait for the execution's end: its output, or error and cause."""
        wait_until(lambda: self._status()["status"] != "RUNNING")
        found = self._status()
        if found["status"] == "SUCCEEDED":
            return {"output": json.loads(found["output"])}
        history = self._workflows.get_execution_history(executionArn=self._arn)["events"]
        (failed,) = [e["taskFailedEventDetails"] for e in history if "taskFailedEventDetails" in e]
        return {"error": failed["error"], "cause": failed.get("cause", "")}

    def _status(self) -> dict[str, Any]:
        return self._workflows.describe_execution(executionArn=self._arn)


def event(notification: dict[str, Any] | str) -> dict[str, Any]:
    message = notification if isinstance(notification, str) else json.dumps(notification)
    return {"Records": [{"EventSource": "aws:sns", "Sns": {"Type": "Notification", "Message": message}}]}


@pytest.fixture
def waiting(s3: S3Client, dynamodb: DynamoDBClient, bucket: str, tokens: str) -> Waiting:
    return Waiting(s3, dynamodb, bucket, tokens)


@pytest.fixture
def callback(load: Callable[[str], Any], tokens: str) -> Any:
    return load("callback")


def test_the_workflow_gets_the_answer_as_from_a_function(callback: Any, waiting: Waiting) -> None:
    callback(waiting.completed(waiting.start(), json.dumps(ANSWER).encode()))
    assert waiting.end() == {"output": ANSWER}  # claim checks stay claim checks


def test_the_second_answer_is_dropped(callback: Any, waiting: Waiting, caplog: pytest.LogCaptureFixture) -> None:
    first = waiting.completed(waiting.start(), json.dumps(ANSWER).encode())
    callback(first)
    assert waiting.end() == {"output": ANSWER}
    callback(first)
    assert "it is late, or the second one" in caplog.text


def test_an_answer_after_the_timeout_is_dropped(
    callback: Any, waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    inference_id = waiting.start(timeout=1)
    assert waiting.end()["error"] == "States.Timeout"
    callback(waiting.completed(inference_id, json.dumps(ANSWER).encode()))
    assert f"ignored an answer to {inference_id}" in caplog.text


def test_an_answer_that_nobody_waits_for_is_dropped(callback: Any, caplog: pytest.LogCaptureFixture) -> None:
    callback(event({**COMPLETED, "inferenceId": "of-somebody-else"}))
    assert "ignored an answer to of-somebody-else: nobody waits for it" in caplog.text


@pytest.mark.parametrize("message", ["", "Hello", "{}", '{"inferenceId": ""}'])
def test_what_is_no_notification_is_dropped(callback: Any, caplog: pytest.LogCaptureFixture, message: str) -> None:
    callback(event(message))
    assert "ignored a message" in caplog.text


def test_a_failure_names_the_containers_error_and_reads_like_lambdas(callback: Any, waiting: Waiting) -> None:
    said = json.dumps({"errorType": "RetryableError", "errorMessage": "the bucket is away"})
    body = {"content": base64.b64encode(said.encode()).decode(), "encoding": "BASE64"}
    callback(event({**FAILED, "inferenceId": waiting.start(), "responseBody": body}))
    end = waiting.end()
    assert end["error"] == "RetryableError"
    assert json.loads(end["cause"]) == json.loads(said)


def test_a_failure_of_unbounded_length_is_shortened(callback: Any, waiting: Waiting) -> None:
    said = json.dumps({"errorType": "E" * 1000, "errorMessage": "m" * 100_000})
    body = {"content": base64.b64encode(said.encode()).decode(), "encoding": "BASE64"}
    callback(event({**FAILED, "inferenceId": waiting.start(), "responseBody": body}))
    end = waiting.end()
    assert end["error"] == "E" * 256
    assert len(end["cause"]) < 3000


def test_a_container_that_broke_off_may_have_done_so_because_of_an_item(callback: Any, waiting: Waiting) -> None:
    callback(event({**FAILED, "inferenceId": waiting.start()}))
    assert waiting.end()["error"] == "SageMakerModelError"


@pytest.mark.parametrize(
    ("output", "error", "says"),
    [
        (None, "SageMakerOutputLost", "the output is not at s3://"),
        (b"", "SageMakerOutputError", "is not JSON, perhaps truncated"),
        (json.dumps(ANSWER).encode()[:-30], "SageMakerOutputError", "is not JSON, perhaps truncated"),
        (b"\xff\xfe", "SageMakerOutputError", "is not JSON"),
        (b'{"groups": [NaN]}', "SageMakerOutputError", "NaN is not JSON"),
        (b"[" * 100_000, "SageMakerOutputError", "is not JSON"),
        (b"null", "SageMakerOutputError", "has no groups"),
        (b"[]", "SageMakerOutputError", "has no groups"),
        (b'{"groups": 5}', "SageMakerOutputError", "has no groups"),
        (json.dumps({"groups": ["x" * 262_144]}).encode(), "BatchTooLargeError", "larger than 262,144 bytes"),
        # It fits, and no more does so in the ASCII that is sent.
        (json.dumps({"groups": ["é" * 100_000]}, ensure_ascii=False).encode(), "BatchTooLargeError", "larger than"),
    ],
    ids=["missing", "empty", "truncated", "bytes", "nan", "deep", "null", "list", "groups", "large", "escaped"],
)
def test_an_output_that_is_no_answer_fails_the_task_with_the_reason(
    callback: Any, waiting: Waiting, output: bytes | None, error: str, says: str
) -> None:
    callback(waiting.completed(waiting.start(), output))
    end = waiting.end()
    assert end["error"] == error
    assert says in json.loads(end["cause"])["errorMessage"]


def test_the_largest_answer_that_a_workflow_takes(callback: Any, waiting: Waiting) -> None:
    room = 262_144 - len('{"Payload":{"groups":[""]}}')
    callback(waiting.completed(waiting.start(), json.dumps({"groups": ["x" * room]}, separators=(",", ":")).encode()))
    assert waiting.end() == {"output": {"groups": ["x" * room]}}


@pytest.mark.parametrize("service", ["dynamodb", "s3", "stepfunctions"])
def test_a_service_that_is_out_of_order_raises_so_that_lambda_tries_again(
    load: Callable[[str], Any], waiting: Waiting, environment: pytest.MonkeyPatch, tokens: str, service: str
) -> None:
    answer = waiting.completed(waiting.start(), json.dumps(ANSWER).encode())
    with environment.context() as broken:
        broken.setenv(
            f"AWS_ENDPOINT_URL_{ {'stepfunctions': 'SFN'}.get(service, service.upper()) }", "http://127.0.0.1:9"
        )
        with pytest.raises(RetryableError):
            load("callback")(answer)
    load("callback")(answer)
    assert waiting.end() == {"output": ANSWER}
