"""SageMaker's notifications, and what else might be published."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from inference_runtime.notification import Failure, Notification

# The form of https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html
COMPLETED = {
    "awsRegion": "eu-central-1",
    "eventTime": "2026-01-02T03:04:05.678Z",
    "receivedTime": "2026-01-02T03:04:05.123Z",
    "invocationStatus": "Completed",
    "requestParameters": {
        "accept": "application/json",
        "contentType": "application/json",
        "endpointName": "photos-1",
        "inputLocation": "s3://work/sagemaker/requests/1.json",
    },
    "responseParameters": {
        "contentType": "application/json",
        "outputLocation": "s3://work/sagemaker/answers/0a-1b.out",
    },
    "inferenceId": "1",
    "eventVersion": "1.0",
    "eventSource": "aws:sagemaker",
    "eventName": "InferenceResult",
}
FAILED = {
    **{name: value for name, value in COMPLETED.items() if name != "responseParameters"},
    "invocationStatus": "Failed",
    "failureReason": "ClientError: Received server error (500) from model. See the SageMaker Endpoint logs in your "
    "account for more information.",
}


def parse(notification: Any) -> Notification:
    return Notification.parse(json.dumps(notification))


def body(content: str, **members: str) -> dict[str, Any]:
    return {"responseBody": {"content": base64.b64encode(content.encode()).decode(), "encoding": "BASE64", **members}}


def test_completed() -> None:
    assert parse(COMPLETED) == Notification("1", None, "work", "sagemaker/answers/0a-1b.out")


def test_failed_without_a_word_of_the_container() -> None:
    assert parse(FAILED) == Notification("1", Failure("SageMakerModelError", FAILED["failureReason"]), "", "")


def test_failed_in_the_containers_own_words() -> None:
    said = json.dumps({"errorType": "StageError", "errorMessage": "no"})
    assert parse({**FAILED, **body(said)}).failure == Failure("StageError", "no")
    plain = {"responseBody": {"content": said}}
    assert parse({**FAILED, **plain}).failure == Failure("StageError", "no")


@pytest.mark.parametrize(
    "response",
    [
        {"responseBody": None},
        {"responseBody": "Internal Server Error"},
        {"responseBody": {}},
        {"responseBody": {"content": "%%%", "encoding": "BASE64"}},
        body("<html>"),
        body("[]"),
        body('{"message": "else"}'),
        body('{"errorType": {"deeper": 1}}'),
        body("[" * 100_000),
    ],
)
def test_failed_with_a_word_that_means_nothing_to_us(response: Any) -> None:
    assert parse({**FAILED, **response}).failure == Failure("SageMakerModelError", FAILED["failureReason"])


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("ClientError: Received server error (503) from model.", "SageMakerServiceError"),
        ("ClientError: Received client error (429) from model.", "SageMakerServiceError"),
        ("ClientError: Received client error (400) from model.", "SageMakerModelError"),
        (
            "ClientError: Received server error (0) from model: your invocation timed out",
            "SageMakerModelError",
        ),
        ("ModelError: the container closed the connection", "SageMakerModelError"),
        ("ClientError: the request expired: it was queued longer than its RequestTTLSeconds", "SageMakerServiceError"),
        ("InternalServerError: try again", "SageMakerServiceError"),
        ("AccessDenied: cannot read the input", "SageMakerServiceError"),
    ],
)
def test_only_what_the_container_did_may_be_because_of_an_item(reason: str, error: str) -> None:
    assert parse({**FAILED, "failureReason": reason}).failure == Failure(error, reason)


def test_a_status_that_nobody_knows_is_a_failure_of_the_service() -> None:
    without = {name: value for name, value in FAILED.items() if name != "failureReason"}
    assert parse({**without, "invocationStatus": "Expired"}).failure == Failure("SageMakerServiceError", "Expired")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "You have chosen to subscribe to the topic",
        "null",
        "5",
        '"Completed"',
        "[]",
        "{}",
        json.dumps({**COMPLETED, "inferenceId": ""}),
        json.dumps({**COMPLETED, "inferenceId": None}),
        json.dumps({**COMPLETED, "responseParameters": None}),
        json.dumps({**COMPLETED, "responseParameters": {}}),
        json.dumps({"inferenceId": "1"}),
        "[" * 100_000,
    ],
)
def test_what_is_no_notification_is_a_value_error(message: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Notification.parse(message)
