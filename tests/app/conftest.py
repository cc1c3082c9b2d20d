"""The CDK CLI as it is in the activated environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.common.platform import Architecture
    from cdk_inference.model.recipe.precision import Pinned


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(repository: Path) -> Callable[..., None]:
    """Build a model of this repository, which the apps then find: each of their builds would have to import torch."""

    def build(recipe: str, architecture: Architecture, precision: Pinned | None = None) -> None:
        build_model(repository / "model_assets" / recipe, architecture=architecture, precision=precision)

    return build


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
