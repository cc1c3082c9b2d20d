"""The submit function, against an embedded AWS and a SageMaker that takes or refuses requests."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from inference_runtime.errors import RetryableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

REQUEST = {"groups": [{"indices": [0], "inputs": {"x": {"dtype": "uint8", "shape": [1], "data": "AA=="}}}]}
EVENT = {"token": "t" * 1024, "request": REQUEST, "wait": 600.0}


class SageMaker:
    """The requests to the runtime API, and its answers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.answer: tuple[int, dict[str, str], str] = (202, {}, "")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests.append({"path": self.path, **self.headers})
                status, headers, body = outer.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer = (status, {"x-amzn-ErrorType": code}, json.dumps({"Message": message}))


@pytest.fixture
def sagemaker(environment: pytest.MonkeyPatch) -> Iterator[SageMaker]:
    sagemaker = SageMaker()
    thread = threading.Thread(target=sagemaker.server.serve_forever, daemon=True)
    thread.start()
    environment.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", sagemaker.url)
    yield sagemaker
    sagemaker.server.shutdown()
    sagemaker.server.server_close()
    thread.join()


@pytest.fixture
def submit(
    load: Callable[[str], Any], environment: pytest.MonkeyPatch, bucket: str, tokens: str, sagemaker: SageMaker
) -> Any:
    environment.setenv("ENDPOINT", "photos-1")
    environment.setenv("INVOCATION_TIMEOUT", "60")
    return load("submit")


def test_the_request_waits_in_sagemakers_queue_and_the_token_in_the_table(
    submit: Any, sagemaker: SageMaker, dynamodb: DynamoDBClient, s3: S3Client, tokens: str, bucket: str
) -> None:
    inference_id = submit(EVENT)["inference_id"]
    assert len(inference_id) == 64  # the longest that SageMaker takes
    (request,) = sagemaker.requests
    assert request["path"] == "/endpoints/photos-1/async-invocations"
    sent = {name.removeprefix("X-Amzn-SageMaker-"): v for name, v in request.items() if "SageMaker" in name}
    assert sent == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Inference-Id": inference_id,
        "InputLocation": f"s3://{bucket}/sagemaker/requests/{inference_id}.json",
        "RequestTTLSeconds": "600",
        "InvocationTimeoutSeconds": "60",
    }
    stored = s3.get_object(Bucket=bucket, Key=f"sagemaker/requests/{inference_id}.json")["Body"].read()
    assert json.loads(stored) == REQUEST
    row = dynamodb.get_item(TableName=tokens, Key={"inference_id": {"S": inference_id}})["Item"]
    assert row["token"] == {"S": EVENT["token"]}
    assert 86_400 < int(row["expires_at"]["N"]) - time.time() < 7 * 86_400


def test_a_replay_is_the_same_request_and_another_token_is_another(submit: Any, sagemaker: SageMaker) -> None:
    assert submit(EVENT) == submit(EVENT)
    assert submit({**EVENT, "token": "other"}) != submit(EVENT)
    assert len({request["X-Amzn-SageMaker-Inference-Id"] for request in sagemaker.requests}) == 2


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ValidationError", "Endpoint photos-1 of account 000000000000 not found."),
        (400, "ThrottlingException", "Rate exceeded"),
        (403, "AccessDeniedException", "not authorized to perform: sagemaker:InvokeEndpointAsync"),
        (500, "InternalFailure", "try again"),
        (503, "ServiceUnavailable", "try again"),
    ],
)
def test_whatever_sagemaker_refuses_is_tried_again(
    submit: Any, sagemaker: SageMaker, status: int, code: str, message: str
) -> None:
    sagemaker.refuse(status, code, message)
    with pytest.raises(RetryableError, match=f"RetryableError: cannot hand the batch to endpoint photos-1: .*{code}"):
        submit(EVENT)


def test_a_sagemaker_that_is_not_there_is_tried_again(submit: Any, sagemaker: SageMaker) -> None:
    sagemaker.server.server_close()
    with pytest.raises(RetryableError, match="cannot hand the batch to endpoint photos-1"):
        submit(EVENT)


@pytest.mark.parametrize("name", ["TOKENS_TABLE", "WORK_BUCKET"])
def test_nothing_is_asked_that_could_not_be_answered(
    load: Callable[[str], Any], environment: pytest.MonkeyPatch, submit: Any, sagemaker: SageMaker, name: str
) -> None:
    environment.setenv(name, "not-there")
    with pytest.raises(RetryableError):
        load("submit")(EVENT)
    assert sagemaker.requests == []
