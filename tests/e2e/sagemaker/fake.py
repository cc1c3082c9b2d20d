"""A stand-in for SageMaker: it queues requests, runs the real container's server on the CPU, and announces the end.

It acts with the execution role of the deployed template, as SageMaker does, so that a missing permission shows here.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from cdk_inference.local import aws
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]
POISON = 666.0
"""A model that sees this number dies."""
FATAL = 13.0
"""A model dies of explaining the answer to this number."""
IN_VAIN = 404.0
"""A caller that asks for this number is told that there is no endpoint."""

_NAMES = itertools.count()


class Container:
    """The server that the image starts, as a process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._port = 0
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            **environment,
            "PYTHONPATH": str(ROOT / "lambda_src"),
            "LAMBDA_TASK_ROOT": str(folder),
            "SAGEMAKER_BIND_TO_PORT": "0",  # a free one, of which its log tells
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it, if it does not run, and wait until it says that it is healthy."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            path = self._folder / "container.log"
            with path.open("ab") as log:
                before = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "inference_runtime.handlers.serve", "serve"],
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            deadline = time.monotonic() + PATIENCE
            while not (ready := re.search(rb"ready on port (\d+),", path.read_bytes()[before:])):
                assert self._process.poll() is None, path.read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            self._port = int(ready[1])
            while self._ask("GET", "/ping")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def invoke(self, body: bytes) -> tuple[int, bytes]:
        return self._ask("POST", "/invocations", body)

    def kill(self) -> None:
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class FakeSageMaker:
    """The runtime API, and the endpoint behind it.

    Attributes
    ----------
    orders
        The fates of the coming requests, one after the other. When there are none, all goes well.
    requests
        Input of the requests that were taken.
    refused, refused_in_vain
        How many requests were refused by order, and for their number.
    """

    def __init__(self) -> None:
        self.orders: deque[str] = deque()
        self.requests: list[dict[str, Any]] = []
        self.refused = 0
        self.refused_in_vain = 0
        self.announced: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []
        self._container: Container | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, headers, body = outer._take(urlsplit(self.path).path, self.headers)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.finish()
        if self._container is not None:
            self._container.stop()

    def finish(self) -> None:
        """Wait until everything that was accepted is done and announced."""
        for thread in tuple(self._threads):
            thread.join(PATIENCE)

    def serve(self, endpoint: str, template: Mapping[str, Any], names: Mapping[str, str], folder: Path) -> None:
        """Take what the synthesized template says of SageMaker's part, and start the container.

        Parameters
        ----------
        endpoint
            URL of the embedded AWS.
        template
            The resources, those of SageMaker included.
        names
            Physical names of the deployed ones.
        folder
            A folder whose subfolder `model` has the model.
        """

        def one(kind: str) -> dict[str, Any]:
            (properties,) = (r["Properties"] for r in template.values() if r["Type"] == f"AWS::SageMaker::{kind}")
            return properties

        def text(value: Any) -> str:
            match value:
                case {"Ref": "AWS::Region"}:
                    return aws.REGION
                case {"Ref": name} | {"Fn::GetAtt": [name, "Arn"]}:
                    return names[name]
                case {"Fn::Join": [separator, parts]}:
                    return separator.join(text(part) for part in parts)
            return value

        output = one("EndpointConfig")["AsyncInferenceConfig"]["OutputConfig"]
        self._answers = text(output["S3OutputPath"])
        self._failures = text(output["S3FailurePath"])
        notify = output["NotificationConfig"]
        self._topics = {True: text(notify["SuccessTopic"]), False: text(notify["ErrorTopic"])}
        assert notify["IncludeInferenceResponseIn"] == ["ERROR_NOTIFICATION_TOPIC"]
        role = f"arn:aws:iam::{aws.ACCOUNT}:role/{text(one('Model')['ExecutionRoleArn'])}"
        credentials = aws.service_credentials(
            endpoint,
            role,
            service="sagemaker.amazonaws.com",
            source_arn=f"arn:aws:sagemaker:{aws.REGION}:{aws.ACCOUNT}:endpoint/numbers-1",
        )
        clients = aws.role_clients(endpoint, credentials, ("s3", "sns"))
        self._s3, self._sns = clients["s3"], clients["sns"]
        environment = {name: text(value) for name, value in one("Model")["PrimaryContainer"]["Environment"].items()}
        self._container = Container(
            folder,
            {
                **environment,
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
                "AWS_SESSION_TOKEN": credentials["SessionToken"],
            },
        )
        self._container.start()

    def _take(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        assert path == "/endpoints/numbers-1/async-invocations"
        sent = {name.removeprefix("X-Amzn-SageMaker-"): value for name, value in headers.items()}
        refusals = {
            "not found": (400, "ValidationError", "Endpoint numbers-1 of account 000000000000 not found."),
            "throttle": (400, "ThrottlingException", "Rate exceeded"),
            "unavailable": (503, "ServiceUnavailable", "try again"),
        }
        if IN_VAIN in self._numbers(json.loads(self._read(sent["InputLocation"]))):
            self.refused_in_vain += 1
            order = "not found"
        else:
            order = self.orders.popleft() if self.orders else "answer"
            self.refused += order in refusals
        if order in refusals:
            status, code, message = refusals[order]
            return status, {"x-amzn-ErrorType": code}, json.dumps({"Message": message}).encode()
        name = f"{next(_NAMES):08}.out"
        thread = threading.Thread(target=self._work, args=(order, sent, name), daemon=True)
        self._threads.append(thread)
        thread.start()
        places = {
            "X-Amzn-SageMaker-OutputLocation": self._answers + name,
            "X-Amzn-SageMaker-FailureLocation": self._failures + name,
        }
        return 202, places, json.dumps({"InferenceId": sent["Inference-Id"]}).encode()

    def _work(self, order: str, sent: dict[str, str], name: str) -> None:
        body = self._read(sent["InputLocation"])
        self.requests.append(json.loads(body))
        if order == "never":
            return
        if order == "expire":
            self._failed(sent, "ClientError: the request expired: it was in the queue longer than its TTL allows")
            return
        if order == "break":
            self._failed(sent, "InternalServerError: please try again")
            return
        if order == "busy":
            said = {"errorType": "RetryableError", "errorMessage": "cannot read the work bucket"}
            self._failed(sent, _received(503), json.dumps(said).encode())
            return
        self._container.start()
        request = json.loads(body)
        numbers = self._numbers(request)
        explains = any(group.get("explain") for group in request["groups"])
        if POISON in numbers or (FATAL in numbers and explains):
            self._container.kill()
        try:
            status, answer = self._container.invoke(body)
        except (OSError, http.client.HTTPException):
            self._failed(sent, _received(0))
            return
        if status != 200:
            self._write(self._failures + name, answer)
            self._failed(sent, _received(status), answer)
            return
        if order == "truncate":
            answer = answer[: len(answer) // 2]
        if order != "lose":
            self._write(self._answers + name, answer)
        if order == "late":
            time.sleep(12)  # the task waits for 8 s
        for _ in range(2 if order == "twice" else 1):
            self._completed(sent, name)

    def _numbers(self, request: dict[str, Any]) -> set[float]:
        """Return the numbers of the items to be scored."""
        found: set[float] = set()
        wanted = request.get("only")
        for group in request["groups"]:
            rows = [row for row, index in enumerate(group["indices"]) if wanted is None or index in wanted]
            tensor = group["inputs"]["numbers"]
            if "data" in tensor:
                data = base64.b64decode(tensor["data"])
            else:
                data = self._read(f"s3://{tensor['bucket']}/{tensor['key']}")
            size = len(data) // len(group["indices"])
            found.update(memoryview(data[row * size :][:4]).cast("f")[0] for row in rows)
        return found

    def _read(self, place: str) -> bytes:
        parts = urlsplit(place)
        body: bytes = self._s3.get_object(Bucket=parts.netloc, Key=parts.path[1:])["Body"].read()
        return body

    def _write(self, place: str, body: bytes) -> None:
        parts = urlsplit(place)
        self._s3.put_object(Bucket=parts.netloc, Key=parts.path[1:], Body=body, ContentType="application/json")

    def _completed(self, sent: dict[str, str], name: str) -> None:
        place = {"contentType": "application/json", "outputLocation": self._answers + name}
        self._publish(sent, {"invocationStatus": "Completed", "responseParameters": place})

    def _failed(self, sent: dict[str, str], reason: str, response: bytes | None = None) -> None:
        body = {} if response is None else {"content": base64.b64encode(response).decode(), "encoding": "BASE64"}
        included = {"responseBody": body} if body else {}
        self._publish(sent, {"invocationStatus": "Failed", "failureReason": reason, **included})

    def _publish(self, sent: dict[str, str], outcome: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        notification = {
            "awsRegion": aws.REGION,
            "eventTime": now,
            "receivedTime": now,
            "requestParameters": {
                "accept": sent["Accept"],
                "contentType": sent["Content-Type"],
                "endpointName": "numbers-1",
                "inputLocation": sent["InputLocation"],
            },
            "inferenceId": sent["Inference-Id"],
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
            **outcome,
        }
        self.announced.append(notification)
        topic = self._topics[outcome["invocationStatus"] == "Completed"]
        self._sns.publish(TopicArn=topic, Message=json.dumps(notification))


def _received(status: int) -> str:
    kind = "client" if 400 <= status < 500 else "server"
    return (
        f"ClientError: Received {kind} error ({status}) from model. See the SageMaker Endpoint logs in your account "
        "for more information."
    )
