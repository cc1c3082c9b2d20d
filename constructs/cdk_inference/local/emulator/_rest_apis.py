"""Integrations of REST APIs with express workflows, which MiniStack does not have.

Part of the child process, see `_ministack`. The mapping templates are run by airspeed, an engine for their language.
The workflow is started through the front door, with the credentials of the integration's role. So IAM has its say here
too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ACTION = ("states", "action", "StartSyncExecution")
_LONGEST = 330  # seconds, of an express execution and its answer
_REUSED = 3000  # seconds that the credentials of a role are used; they are valid for an hour
_MOST_INPUT = 262_144  # bytes; MiniStack takes more
_BROKEN = (500, {"Content-Type": "application/json"}, b'{"message": "Internal server error"}')


class _Input:
    """The variable ``$input``."""

    def __init__(self, body: str, params: Mapping[str, str]) -> None:
        self.body = body
        self._params = params

    def params(self, name: str) -> str:
        """Return a parameter of the request."""
        return self._params.get(name, "")

    def path(self, path: str) -> Any:  # noqa: ANN401
        """Return the body; no other path is supported."""
        if path != "$":
            raise ValueError(f"the embedded AWS only has $input.path('$'), got {path!r}")
        return json.loads(self.body)


class _Util:
    """The variable ``$util``."""

    def base64Encode(self, text: str) -> str:  # noqa: N802 - API Gateway's name
        return base64.b64encode(text.encode()).decode()

    def parseJson(self, text: str) -> Any:  # noqa: ANN401, N802 - API Gateway's name
        return json.loads(text)


def integrate_workflows(service_credentials: Callable[[dict[str, str]], tuple[int, dict[str, Any]]], port: int) -> None:
    """Have the integrations of REST APIs start express workflows.

    Parameters
    ----------
    service_credentials
        Returns status and credentials of a service for a role.
    port
        The port of the embedded AWS.
    """
    from ministack.services import apigateway_v1  # noqa: PLC0415

    others = apigateway_v1._invoke_lambda_custom_v1
    clients: dict[tuple[str, str], tuple[float, Any]] = {}

    async def invoke(integration: dict[str, Any], api: str, stage: str, *given: Any, **named: Any) -> Any:  # noqa: ANN401
        spec = apigateway_v1._parse_service_integration_uri(integration.get("uri", ""))
        if spec is None or spec[1:] != _ACTION:
            return await others(integration, api, stage, *given, **named)
        _, _, _, _, headers, body, query, path_params = given
        request = _Request(api, headers, body, query, path_params)
        region, role = named["owner_region"], integration.get("credentials") or ""
        expires, client = clients.get((region, role), (-math.inf, None))
        if time.monotonic() > expires:
            source = f"arn:aws:execute-api:{region}:{named['owner_account_id']}:{api}/{stage}/{given[2]}{given[1]}"
            status, credentials = service_credentials(
                {"Service": "apigateway.amazonaws.com", "RoleArn": role, "SourceArn": source}
            )
            if status != 200:  # noqa: PLR2004
                return _BROKEN
            client = _client(credentials, region, port)
            clients[region, role] = (time.monotonic() + _REUSED, client)
        rendered = _render(request.template(integration), request.input(named["binary_media_types"]), request.context)
        answered = await asyncio.to_thread(_start, client, json.loads(rendered))
        return _response(integration, *answered, request.context)

    apigateway_v1._invoke_lambda_custom_v1 = invoke


class _Request:
    """One request, as templates see it."""

    def __init__(
        self,
        api: str,
        headers: Mapping[str, str],
        body: bytes,
        query: Mapping[str, Any] | None,
        path_params: Mapping[str, str] | None,
    ) -> None:
        self._body = body or b""
        self._kind = next((v for n, v in headers.items() if n.lower() == "content-type"), "application/json")
        named = {name: value[0] if isinstance(value, list) else value for name, value in (query or {}).items()}
        self._params = {**headers, **named, **(path_params or {})}
        self.context: dict[str, Any] = {
            "requestId": str(uuid.uuid4()),
            "apiId": api,
            "requestTimeEpoch": int(time.time() * 1000),
            "responseOverride": {},
        }

    def template(self, integration: Mapping[str, Any]) -> str:
        """Return the template for the type of the body."""
        kind = self._kind.partition(";")[0].strip().lower()
        return str(integration["requestTemplates"][kind])

    def input(self, binary_media_types: list[str]) -> _Input:
        """Return the body as API Gateway hands it on as text: bytes in base64."""
        kind = self._kind.partition(";")[0].strip().lower()
        binary = kind in binary_media_types
        text = base64.b64encode(self._body).decode() if binary else self._body.decode("utf-8", "replace")
        return _Input(text, self._params)


def _client(credentials: Mapping[str, str], region: str, port: int) -> Any:  # noqa: ANN401
    """Return a client of Step Functions that acts as a role."""
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    return botocore.session.get_session().create_client(
        "stepfunctions",
        region_name=region,
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
        config=Config(inject_host_prefix=False, retries={"total_max_attempts": 1}, read_timeout=_LONGEST),
    )


def _start(client: Any, given: dict[str, Any]) -> tuple[int, str]:  # noqa: ANN401
    """Start a workflow and wait for it; return status and body of the answer."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    if len(given["input"].encode()) > _MOST_INPUT:
        return 400, json.dumps({"__type": "ValidationException", "message": "input is too long"})
    try:
        answer = client.start_sync_execution(**given)
    except ClientError as error:
        said = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status, json.dumps({"__type": said["Code"], "message": said["Message"]})
    return 200, json.dumps({n: answer[n] for n in ("status", "output", "error", "cause") if n in answer})


def _response(
    integration: Mapping[str, Any], status: int, body: str, context: dict[str, Any]
) -> tuple[int, dict[str, str], bytes]:
    """Return the response by the integration's first pattern that fits the status, or by that without one."""
    responses = list((integration.get("integrationResponses") or {}).values())
    patterns = [(one.get("selectionPattern"), one) for one in responses]
    fitting = [one for pattern, one in patterns if pattern and re.fullmatch(pattern, str(status))]
    chosen = (fitting or [one for pattern, one in patterns if not pattern])[0]
    text = _render(chosen["responseTemplates"]["application/json"], _Input(body, {}), context)
    found = context["responseOverride"].get("status", chosen["statusCode"])
    named = {
        name.removeprefix("method.response.header."): value.strip("'")
        for name, value in (chosen.get("responseParameters") or {}).items()
    }
    return int(found), {"Content-Type": "application/json", **named}, text.strip().encode()


def _render(template: str, given: _Input, context: dict[str, Any]) -> str:
    import airspeed  # noqa: PLC0415

    return str(airspeed.Template(template).merge({"input": given, "util": _Util(), "context": context}))
