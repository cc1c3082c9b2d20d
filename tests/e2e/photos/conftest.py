"""The reference app, deployed once from a copy in another folder, by the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference import LambdaPlatform
from cdk_inference.local.background import Background
from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.local import Cloud
    from tests.e2e.conftest import Watched

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reference app."""
    folder = tmp_path_factory.mktemp("reference") / "app"
    folder.mkdir()
    for name in ("app.py", "cdk.json"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "model_assets", folder / "model_assets", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="package")
def command(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in the app's folder."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cdk_inference.local", *map(str, arguments)],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="package")
def cloud(project: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> Iterator[Cloud]:
    # Here a build is cheaper than in the app, which finds it then.
    recipe = project / "model_assets" / "efficientnet_lite" / "lite0.py"
    build_model(recipe, architecture=LambdaPlatform.host().architecture)
    try:
        deployed = command("deploy")
        assert deployed.returncode == 0, deployed.stderr
        yield Background(project).cloud()
    finally:
        destroyed = command("destroy")
    assert (destroyed.returncode, destroyed.stdout) == (0, "destroyed\n")
    assert not (project / ".cdk-inference").exists()


@pytest.fixture(scope="package")
def photos(watch: type[Watched], cloud: Cloud) -> Watched:
    return watch(cloud, "PhotoLabels/Photos")


@pytest.fixture(scope="package")
def photographs(project: Path) -> dict[str, Path]:
    """The sample photographs by file name."""
    return {path.name: path for path in (project / "model_assets" / "photographs").iterdir() if path.suffix != ".json"}


@pytest.fixture(scope="package")
def accepted(project: Path) -> dict[str, list[str]]:
    """The labels that are right for each photograph."""
    return json.loads((project / "model_assets" / "photographs" / "accepted.json").read_text(encoding="utf-8"))
