"""How processes and clients reach the embedded AWS, and nothing else."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config

from cdk_inference.platform import LambdaPlatform

from .errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ACCOUNT = "000000000000"
REGION = "us-east-1"
SERVICE_CREDENTIALS = "/_cdk-inference/service-credentials"
FAULTS = "/_cdk-inference/faults"
_KEY = "test"  # the emulator's root credentials; it listens on the loopback interface only

# Express executions may take five minutes, and an answer that is lost must not start a second one.
_SYNCHRONOUS = {"stepfunctions": {"read_timeout": 330, "retries": {"total_max_attempts": 1}}}

# The proxy of the user's environment has no way to our loopback address.
open_directly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def host_platform() -> str:
    """Return the platform that functions run on here, as in ``"3.11/x86_64/x86_64-manylinux_2_36"``.

    Returns
    -------
    str
        Python version, Lambda's name of the architecture, and the wheels that this machine can load. The emulator runs
        functions with our own interpreter.
    """
    return str(LambdaPlatform.host())


def environment(endpoint: str, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which every AWS SDK reaches the embedded AWS and nothing reaches the real one.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    base
        Environment to start from, ours by default. Its AWS settings (profiles, roles, credentials) do not survive.

    Returns
    -------
    dict
        The environment.
    """
    kept = {
        name: value
        for name, value in (os.environ if base is None else base).items()
        if not name.startswith("AWS_") or name == "AWS_CA_BUNDLE"
    }
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1", "localhost"]))
    return kept | {
        "NO_PROXY": direct,
        "no_proxy": direct,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@cache
def client(endpoint: str, service: str) -> Any:  # noqa: ANN401
    """Return a boto3 client of the embedded AWS with the rights of the account's root.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    service
        Name that boto3 gives the service, such as ``"s3"``.

    Returns
    -------
    botocore.client.BaseClient
        Thread-safe client. It takes a tenth of a second to make, so the same one is returned each time.
    """
    return _client(_session({"AccessKeyId": _KEY, "SecretAccessKey": _KEY}), endpoint, service)


def role_clients(endpoint: str, credentials: Mapping[str, str], services: Iterable[str]) -> dict[str, Any]:
    """Return clients with the rights of an assumed role.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    credentials
        ``AccessKeyId``, ``SecretAccessKey`` and ``SessionToken``.
    services
        Names that boto3 gives the services.

    Returns
    -------
    dict
        Thread-safe clients by service.
    """
    session = _session(credentials)
    return {service: _client(session, endpoint, service) for service in services}


def service_credentials(endpoint: str, role_arn: str, *, service: str, source_arn: str) -> dict[str, str]:
    """Return credentials that an AWS service gets for a role, valid for an hour.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    role_arn
        The role.
    service
        Service principal, such as ``"pipes.amazonaws.com"``.
    source_arn
        The resource on whose behalf it acts. The trust policy sees it as ``aws:SourceArn``, and its account as
        ``aws:SourceAccount``.

    Returns
    -------
    dict
        ``AccessKeyId``, ``SecretAccessKey`` and ``SessionToken``.

    Raises
    ------
    LocalError
        If the role's trust policy refuses, with that policy.
    """
    body = json.dumps({"Service": service, "RoleArn": role_arn, "SourceArn": source_arn}).encode()
    try:
        with open_directly(f"{endpoint}{SERVICE_CREDENTIALS}", body, timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.FORBIDDEN:
            raise LocalError(f"the embedded AWS answered {error.code} when {service} asked for {role_arn}") from error
        raise LocalError(json.load(error)["message"]) from error
    except OSError as error:
        raise LocalError(f"the embedded AWS did not answer when {service} asked for {role_arn}: {error}") from error


def _session(credentials: Mapping[str, str]) -> boto3.session.Session:
    # A session of its own: the default one is shared and not thread-safe. Profiles of the user have no say in it.
    nowhere = (None, None, os.devnull, None)
    variables = {"profile": (None, None, None, None), "config_file": nowhere, "credentials_file": nowhere}
    return boto3.session.Session(
        botocore_session=botocore.session.Session(session_vars=variables),
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials.get("SessionToken"),
        region_name=REGION,
    )


def _client(session: boto3.session.Session, endpoint: str, service: str) -> Any:  # noqa: ANN401
    # inject_host_prefix: StartSyncExecution would go to sync-127.0.0.1.
    options: dict[str, Any] = {"retries": {"total_max_attempts": 2}} | _SYNCHRONOUS.get(service, {})
    # proxies: those of the environment have no way to our loopback address.
    config = Config(inject_host_prefix=False, max_pool_connections=32, proxies={}, **options)
    return session.client(service, endpoint_url=endpoint, config=config)  # type: ignore[call-overload]
