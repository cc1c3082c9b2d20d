"""The session of boto3 that a command line works with."""

from __future__ import annotations

import os

import boto3
from botocore.exceptions import ProfileNotFound

from cdk_inference.errors import InferenceError


class SessionError(InferenceError):
    """A command cannot tell which account or Region it works with."""


def open_session(profile: str | None, region: str | None) -> boto3.Session:
    """Return a session that has a Region and credentials.

    Parameters
    ----------
    profile
        A profile of the AWS configuration. Default: the one that the environment names.
    region
        The Region. Default: `AWS_REGION`, as the AWS CLI reads it, then what boto3 finds.

    Raises
    ------
    SessionError
        The profile does not exist, or a Region or credentials are missing.
    """
    try:
        session = boto3.Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION") or None)
        region_name = session.region_name
    except ProfileNotFound as error:
        known = ", ".join(boto3.Session().available_profiles) if profile else ""
        raise SessionError(
            f"profile must be in your AWS configuration, got {profile or os.environ.get('AWS_PROFILE')!r}; "
            f"{f'it has {known}' if known else 'run aws configure sso'}"
        ) from error
    if region_name is None:
        raise SessionError(
            "region must be given, got none; pass --region, such as --region eu-west-1, or set AWS_REGION or the "
            "region of your profile"
        )
    if session.get_credentials() is None:
        raise SessionError(
            "AWS credentials must be found, got none; run aws sso login or aws configure, or pass --profile"
        )
    return session
