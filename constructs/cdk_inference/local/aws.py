"""How processes and clients reach the embedded AWS, and nothing else."""

from __future__ import annotations

import json
import os
import secrets
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from cdk_inference.common.platform import LambdaPlatform
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ACCOUNT = "000000000000"
REGION = "us-east-1"
SERVICE_CREDENTIALS = "/_cdk-inference/service-credentials"
FAULTS = "/_cdk-inference/faults"
ENVIRONMENTS = "/_cdk-inference/environments"
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


class Env(NamedTuple):
    """An account and a region of the embedded AWS, which has all of them.

    Parameters
    ----------
    account, region
        Those of apps that name none, by default.
    """

    account: str = ACCOUNT
    region: str = REGION


DEFAULT_ENV = Env()


@dataclass(frozen=True)
class Key:
    """The key of one embedded AWS, without which it refuses all requests.

    Parameters
    ----------
    id
        The beginning of the access key ids of its accounts' roots; the number of the account follows.
    secret
        The secret access key of all of them.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(16).upper())
    secret: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    def save(self, path: Path) -> None:
        """Write it into a new file that only this user can read.

        Parameters
        ----------
        path
            The file.
        """
        write_private(path, json.dumps(asdict(self)))


_keys: dict[str, Key] = {}  # by endpoint; whoever starts or finds an embedded AWS adds its key


def use_key(endpoint: str, key: Key) -> None:
    """Let this process call an embedded AWS.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    key
        Its key.
    """
    _keys[endpoint] = key


def key_of(endpoint: str) -> Key:
    """Return the key of an embedded AWS.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.

    Raises
    ------
    LocalError
        If this process has neither started nor found it.
    """
    try:
        return _keys[endpoint]
    except KeyError:
        raise LocalError(f"endpoint must be that of an embedded AWS whose key is known, got {endpoint!r}") from None


def root_credentials(endpoint: str, account: str = ACCOUNT) -> dict[str, str]:
    """Return the credentials of an account's root.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    account
        The account.

    Returns
    -------
    dict
        ``AccessKeyId`` and ``SecretAccessKey``.
    """
    key = key_of(endpoint)
    return {"AccessKeyId": f"{key.id}{account}", "SecretAccessKey": key.secret}


def write_private(path: Path, text: str) -> None:
    """Write a new file that only this user can read.

    Parameters
    ----------
    path
        The file. It must not exist.
    text
        Its content.
    """
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)


def environment(endpoint: str, base: Mapping[str, str] | None = None, env: Env = DEFAULT_ENV) -> dict[str, str]:
    """Return an environment in which every AWS SDK reaches the embedded AWS and nothing reaches the real one.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    base
        Environment to start from, ours by default. Its AWS settings (profiles, roles, credentials) do not survive.
    env
        Account and region.

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
    credentials = root_credentials(endpoint, env.account)
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1", "localhost"]))
    return kept | {
        "NO_PROXY": direct,
        "no_proxy": direct,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_REGION": env.region,
        "AWS_DEFAULT_REGION": env.region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(endpoint: str, service: str, env: Env = DEFAULT_ENV) -> Any:  # noqa: ANN401
    """Return a boto3 client of the embedded AWS with the rights of the account's root.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    service
        Name that boto3 gives the service, such as ``"s3"``.
    env
        Account and region.

    Returns
    -------
    botocore.client.BaseClient
        Thread-safe client. The same one is returned each time.
    """
    return _root_client(endpoint, service, env, key_of(endpoint))


@cache
def _root_client(endpoint: str, service: str, env: Env, _key: Key) -> Any:  # noqa: ANN401 (ports are used again)
    return _client(root_credentials(endpoint, env.account), env.region, endpoint, service)


def role_clients(
    endpoint: str, credentials: Mapping[str, str], services: Iterable[str], region: str = REGION
) -> dict[str, Any]:
    """Return clients with the rights of an assumed role.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    credentials
        ``AccessKeyId``, ``SecretAccessKey`` and ``SessionToken``.
    services
        Names that boto3 gives the services.
    region
        Region of what they call.

    Returns
    -------
    dict
        Thread-safe clients by service.
    """
    return {service: _client(credentials, region, endpoint, service) for service in services}


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
        return dict(call(endpoint, SERVICE_CREDENTIALS, body))
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.FORBIDDEN:
            raise LocalError(f"{service} cannot assume {role_arn}: the embedded AWS answered {error.code}") from error
        raise LocalError(json.load(error)["message"]) from error
    except OSError as error:
        raise LocalError(f"{service} cannot assume {role_arn}: the embedded AWS did not answer: {error}") from error


def call(endpoint: str, path: str, body: bytes | None = None) -> Any:  # noqa: ANN401
    """Call a helper of the embedded AWS that AWS does not have.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    path
        Path and query.
    body
        Body of a POST. Default: a GET.

    Returns
    -------
    object
        The parsed JSON of the answer.
    """
    credentials = root_credentials(endpoint)
    url = f"{endpoint}{path}"
    request = AWSRequest("GET" if body is None else "POST", url, data=body or b"")
    signer = Credentials(credentials["AccessKeyId"], credentials["SecretAccessKey"])
    SigV4Auth(signer, "cdk-inference", REGION).add_auth(request)
    signed = urllib.request.Request(url, body, dict(request.headers))  # noqa: S310
    with open_directly(signed, timeout=30) as answer:
        return json.load(answer)


def environments(endpoint: str) -> list[Env]:
    """Return the accounts and regions to which an app's stacks were deployed, in the order of their names.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    """
    return [Env(*pair) for pair in call(endpoint, ENVIRONMENTS)["environments"]]


@cache
def _session() -> boto3.session.Session:
    # A separate session: the default one is the user's. Profiles of the user have no say in it.
    nowhere = (None, None, os.devnull, None)
    variables = {"profile": (None, None, None, None), "config_file": nowhere, "credentials_file": nowhere}
    return boto3.session.Session(botocore_session=botocore.session.Session(session_vars=variables))


_making = threading.Lock()  # a session is not thread-safe, unlike its clients


def _client(credentials: Mapping[str, str], region: str, endpoint: str, service: str) -> Any:  # noqa: ANN401
    # inject_host_prefix: StartSyncExecution would go to sync-127.0.0.1.
    options: dict[str, Any] = {"retries": {"total_max_attempts": 2}} | _SYNCHRONOUS.get(service, {})
    # proxies: those of the environment have no way to our loopback address.
    config = Config(inject_host_prefix=False, max_pool_connections=32, proxies={}, **options)
    with _making:  # of one session, which reads the model of a service once
        return _session().client(  # type: ignore[call-overload]
            service,
            region_name=region,
            endpoint_url=endpoint,
            config=config,
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials.get("SessionToken"),
        )
