"""Credentials of a device: from the environment, from Greengrass, or from a profile of AWS's configuration files.

A profile has a `credential_process`, such as that of IAM Roles Anywhere, or keys.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from inference_runtime.errors import RetryableError
from inference_runtime.s3.credentials import Credentials, CredentialSource, KeptCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESS_SECONDS = 60
"""Seconds that a `credential_process` may take: it talks to AWS by a slow network."""

_ENDPOINTS = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
_OK = 1  # the version of what a process prints


class DeviceCredentials:
    """Finds credentials, and keeps those that expire until shortly before; thread-safe.

    Keys in the environment come first, then Greengrass's token exchange service or another endpoint for containers,
    then the profile that `AWS_PROFILE` names, ``default`` by default.
    """

    def __init__(self) -> None:
        self._source = CredentialSource()
        self._profile = KeptCredentials(_of_profile)

    def get(self) -> Credentials:
        """Return the credentials that are valid now.

        Raises
        ------
        RetryableError
            If there are none now.
        """
        if os.environ.get("AWS_ACCESS_KEY_ID") or any(os.environ.get(name) for name in _ENDPOINTS):
            return self._source.get()
        return self._profile.get()

    def reset(self) -> None:
        """Ask for others at the next request: AWS has refused these."""
        self._source.reset()
        self._profile.reset()


def _of_profile() -> tuple[Credentials, float]:
    """Return credentials of the profile, and when they expire in seconds since 1970."""
    name = os.environ.get("AWS_PROFILE", "default")
    keys = _section("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name)
    settings = _section("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}")
    for found in (keys, settings):
        if "aws_access_key_id" in found:
            key_id, secret = found["aws_access_key_id"], found.get("aws_secret_access_key", "")
            return Credentials(key_id, secret, found.get("aws_session_token", "")), float("inf")
        if "credential_process" in found:
            return _of_process(found["credential_process"])
    raise RetryableError(
        "no AWS credentials: the environment has neither AWS_ACCESS_KEY_ID nor AWS_CONTAINER_CREDENTIALS_FULL_URI,"
        f" and the profile {name!r} has neither credential_process nor aws_access_key_id"
    )


def _section(variable: str, default: str, name: str) -> Mapping[str, str]:
    path = Path(os.environ.get(variable) or default).expanduser()
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise RetryableError(f"cannot read the profiles of {path}: {error}") from error
    return parser[name] if parser.has_section(name) else {}


def _of_process(command: str) -> tuple[Credentials, float]:
    """Run a `credential_process`.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
    """
    try:
        done = subprocess.run(  # noqa: S603 - whoever configures the device names it
            shlex.split(command), stdout=subprocess.PIPE, check=True, timeout=PROCESS_SECONDS
        )
        told = json.loads(done.stdout)
        if told.get("Version") != _OK:
            raise RetryableError(f"credential_process must print version 1, got {told.get('Version')!r}")
        until = told.get("Expiration")
        expires = float("inf") if until is None else datetime.fromisoformat(until).timestamp()
        return Credentials(told["AccessKeyId"], told["SecretAccessKey"], told.get("SessionToken", "")), expires
    except subprocess.SubprocessError as error:
        # The error's own text has the command, and with it perhaps secrets.
        raise RetryableError(f"credential_process must succeed, got {type(error).__name__}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"credential_process must print credentials, got {type(error).__name__}"
        raise RetryableError(text) from error
