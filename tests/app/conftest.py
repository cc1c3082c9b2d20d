"""The CDK CLI as it is in the activated environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def activated() -> dict[str, str]:
    """The environment after `source .venv/bin/activate`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "NO_COLOR": "1", "CDK_DISABLE_CLI_TELEMETRY": "true"}


@pytest.fixture(scope="session")
def cdk(activated: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the CDK CLI in a folder."""

    def run(folder: Path, *arguments: str, umask: int = -1, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["cdk", *arguments, "--no-notices"],
            cwd=folder,
            env=activated | variables,
            umask=umask,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run
