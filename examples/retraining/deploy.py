"""Deploy the model of a run as the candidate of a canary: the model that answers now is the stable one."""

import os
import subprocess
import sys

import boto3

from cdk_inference.model.registry.registry import Registry
from cdk_inference.releases.deployed import ABORTED, PROMOTED, DeployedRelease, ReleaseError

STACK = os.environ["STACK"]


def stable_version() -> str:
    """Return the version that answers all objects now; empty for the recipe's own model.

    Raises
    ------
    SystemExit
        A release is going on, and another one must not cut it short.
    """
    try:
        release = DeployedRelease.find(boto3.Session(), STACK).status()
    except ReleaseError:  # this is the first one
        return ""
    if release.status not in (PROMOTED, ABORTED):
        sys.exit(f"release {release.release} must be over, got {release.status}; the same labels are tried again")
    version = (release.candidate if release.status == PROMOTED else release.stable)["version"]
    models = Registry(f"s3://{os.environ['RETRAINING_BUCKET']}/models").models()
    return version if version in {model.version for model in models} else ""


if __name__ == "__main__":
    versions = {"STABLE_VERSION": stable_version(), "CANDIDATE_VERSION": os.environ["MODEL_VERSION"]}
    command = ["cdk", "deploy", STACK, "--require-approval", "never", "--no-notices", "--ci"]
    sys.exit(subprocess.run(command, env={**os.environ, **versions}, check=False).returncode)
