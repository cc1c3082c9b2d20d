"""How long requests take in the embedded AWS, and what the API adds to that: `python -m benchmarks.api`.

The same item is sent to the API and to what is behind it, in turn, by the same client. The app is that of the
end-to-end tests: a fused pipeline with an HTTP API, and one with separate stages and a REST API.
"""

from __future__ import annotations

import base64
import http.client
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cdk_inference.local import LocalCloud, aws

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 200
WARM = 20
APP = Path(__file__).parents[1] / "tests" / "e2e" / "triggers" / "app"

_NUMBERS = {"a": 1, "b": 2, "c": 30, "d": 40}
_ORDER = b"return [1, 2, 30, 40]"


class Client:
    """Sends signed requests over one connection.

    Parameters
    ----------
    cloud
        Where to.
    """

    def __init__(self, cloud: LocalCloud) -> None:
        self._endpoint = cloud.endpoint
        found = aws.root_credentials(cloud.endpoint)
        self._credentials = Credentials(found["AccessKeyId"], found["SecretAccessKey"])
        self._connection = http.client.HTTPConnection(cloud.endpoint.removeprefix("http://"))

    def post(self, service: str, path: str, body: bytes, **headers: str) -> bytes:
        """Send a request, and return the body of a response whose status is 200."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = AWSRequest("POST", f"{self._endpoint}{path}", named, data=body)
        SigV4Auth(self._credentials, service, aws.REGION).add_auth(request)
        self._connection.request("POST", path, body, dict(request.headers))
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise SystemExit(f"error: {path} answered {response.status}: {answer.decode()}")
        return answer


def alternate(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the median milliseconds of two calls that are made in turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM + ROUNDS):
        for call, times in zip((first, second), taken, strict=True):
            begun = time.perf_counter()
            call()
            if number >= WARM:
                times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    """Deploy the app, measure, and print."""
    with LocalCloud(pipes=False) as cloud:
        cloud.deploy(Path(sys.argv[1]) if len(sys.argv) > 1 else APP)
        client = Client(cloud)

        def physical(pipeline: str, kind: str, part: str = "") -> str:
            found = cloud.resources(pipeline=f"Triggers/{pipeline}", type=kind)
            return next(one.physical_id for one in found if part in one.logical_id)

        item = {"source": "arn:aws:apigateway:::x", "id": "a", "sequence": "0", "time": "1000"}
        message = {"message_id": "a", "body": _NUMBERS, "item": item}
        api = physical("Records", "AWS::ApiGatewayV2::Api")
        function = physical("Records", "AWS::Lambda::Function")
        event = json.dumps({"messages": [message], "answers": "only"}).encode()
        numbers = json.dumps(_NUMBERS).encode()
        with_api, without = alternate(
            lambda: client.post(
                "execute-api", f"/_aws/execute-api/{api}/$default/predict", numbers, Content_Type="application/json"
            ),
            lambda: client.post("lambda", f"/2015-03-31/functions/{function}/invocations", event),
        )
        print(f"HTTP API, fused: {with_api:.1f} ms, {with_api - without:.1f} ms more than the function")  # noqa: T201

        rest = physical("Staged", "AWS::ApiGateway::RestApi")
        machines = cloud.client("stepfunctions").list_state_machines()["stateMachines"]
        machine = next(one["stateMachineArn"] for one in machines if "StagedRestApiWorkflow" in one["name"])
        given = {"request": "r", "api": "x", "time": "1000", "key": "", "body": base64.b64encode(_ORDER).decode()}
        start = json.dumps({"stateMachineArn": machine, "input": json.dumps(given)}).encode()
        with_api, without = alternate(
            lambda: client.post(
                "execute-api", f"/_aws/execute-api/{rest}/prod/predict", _ORDER, Content_Type="text/plain"
            ),
            lambda: client.post(
                "states",
                "/",
                start,
                Content_Type="application/x-amz-json-1.0",
                X_Amz_Target="AWSStepFunctions.StartSyncExecution",
            ),
        )
        print(f"REST API, separate stages: {with_api:.1f} ms, {with_api - without:.1f} ms more than the workflow")  # noqa: T201


if __name__ == "__main__":
    main()
