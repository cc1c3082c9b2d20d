"""Callers of an API: how they sign, and what they get."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cdk_inference.local import aws

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.local import Cloud, LocalCloud


@dataclass(frozen=True)
class Caller:
    """A caller of an API.

    Parameters
    ----------
    url
        Where the API is.
    headers
        Headers of all requests.
    credentials
        The key that signs them; None if they are not signed.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    credentials: Credentials | None = None

    def post(
        self, path: str, body: bytes | object, kind: str = "application/json", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Send bytes, or anything else as JSON; return status, answer and headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._send("POST", path, data, {"Content-Type": kind, **named})

    def get(self, path: str) -> tuple[int, Any]:
        """Ask for something; return status and answer."""
        return self._send("GET", path, None, {})[:2]

    def _send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        request = AWSRequest(method, f"{self.url}{path}", {**self.headers, **headers}, data=data)
        if self.credentials is not None:
            SigV4Auth(self.credentials, "execute-api", aws.REGION).add_auth(request)
        prepared = urllib.request.Request(request.url, data, dict(request.headers), method=method)  # noqa: S310 - loopback
        try:
            with aws.open_directly(prepared, timeout=60) as response:
                status, text, found = response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            status, text, found = error.code, error.read(), dict(error.headers)
        answer = json.loads(text) if text.startswith((b"{", b"[")) else text.decode()
        return status, answer, {name.lower(): value for name, value in found.items()}


def user(cloud: Cloud, name: str) -> Credentials:
    """Return new credentials of a user of the app."""
    key = cloud.client("iam").create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def api_url(cloud: Cloud, pipeline: str) -> str:
    """Return where the HTTP API of a pipeline is."""
    (api,) = cloud.resources(pipeline=pipeline, type="AWS::ApiGatewayV2::Api")
    return f"{cloud.endpoint}/_aws/execute-api/{api.physical_id}/$default"


def rest_api_url(cloud: Cloud, pipeline: str) -> str:
    """Return where the REST API of a pipeline is."""
    (api,) = cloud.resources(pipeline=pipeline, type="AWS::ApiGateway::RestApi")
    return f"{cloud.endpoint}/_aws/execute-api/{api.physical_id}/prod"


def put(url: str, data: bytes, headers: Mapping[str, str]) -> int:
    """Send an object to a presigned URL, and return the status."""
    request = urllib.request.Request(url, data, dict(headers), method="PUT")  # noqa: S310 - loopback
    try:
        with aws.open_directly(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def shop_key(cloud: Cloud) -> str:
    """Return the API key of the shop."""
    (key,) = cloud.client("apigateway").get_api_keys(includeValues=True)["items"]
    return str(key["value"])


@cache
def token(cloud: LocalCloud) -> str:
    """Return a token of a new user of the pool."""
    users = cloud.client("cognito-idp")
    (pool,) = cloud.resources(type="AWS::Cognito::UserPool")
    (client,) = cloud.resources(type="AWS::Cognito::UserPoolClient")
    password = "Secret-password-1"  # noqa: S105 - of a user that lives as long as the test
    users.admin_create_user(UserPoolId=pool.physical_id, Username="ann", MessageAction="SUPPRESS")
    users.admin_set_user_password(UserPoolId=pool.physical_id, Username="ann", Password=password, Permanent=True)
    signed_in = users.admin_initiate_auth(
        UserPoolId=pool.physical_id,
        ClientId=client.physical_id,
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "ann", "PASSWORD": password},
    )
    return str(signed_in["AuthenticationResult"]["IdToken"])
