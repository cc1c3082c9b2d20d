"""A command says how to name an account and a Region, in place of what boto3 says."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from cdk_inference.common.sessions import SessionError, open_session
from cdk_inference.local.errors import LocalError
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    "retraining": ["status", "Stack"],
    "releases": ["status", "Stack"],
    "audit": ["object", "Stack", "key"],
    "backfill": ["status", "Stack"],
}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An AWS configuration with two profiles, and nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-3\naws_access_key_id = AKIA\n"
                                     "aws_secret_access_key = s\n[profile bare]\n")  # fmt: skip
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_the_region_comes_from_the_option_then_the_environment_then_the_profile(
    configured: pytest.MonkeyPatch,
) -> None:
    assert open_session("work", None).region_name == "eu-west-3"
    configured.setenv("AWS_REGION", "eu-west-2")
    assert open_session("work", None).region_name == "eu-west-2"
    assert open_session("work", "eu-west-1").region_name == "eu-west-1"


@pytest.mark.parametrize(
    ("profile", "region", "message"),
    [
        (None, None, r"^region must be given, got none; pass --region, such as --region eu-west-1, or set AWS_REGION"),
        ("bare", "eu-west-1", r"^AWS credentials must be found, got none; run aws sso login or aws configure, or"),
        ("wrok", None, r"^profile must be in your AWS configuration, got 'wrok'; it has work, bare$"),
    ],
)
@pytest.mark.usefixtures("configured")
def test_a_session_without_account_or_region_fails(profile: str | None, region: str | None, message: str) -> None:
    with pytest.raises(SessionError, match=message):
        open_session(profile, region)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("configured")
def test_a_command_without_a_region_says_how_to_name_one(command: str) -> None:
    app = import_module(f"cdk_inference.{command}.cli").app
    assert isinstance(CliRunner().invoke(app, COMMANDS[command]).exception, SessionError)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("ValidationError", LocalError, r"^stack must be deployed in eu-west-1, got 'Stack', which is not; deploy it"),
        ("ExpiredToken", ClientError, "ExpiredToken"),
    ],
)
def test_a_stack_is_missing_only_where_cloudformation_says_so(code: str, error: type[Exception], message: str) -> None:
    class CloudFormation:
        class meta:  # noqa: N801 - boto3's name
            region_name = "eu-west-1"

        def get_template(self, **_: str) -> None:
            raise ClientError({"Error": {"Code": code}}, "GetTemplate")

    with pytest.raises(error, match=message):
        Stack(CloudFormation(), "Stack").template()
