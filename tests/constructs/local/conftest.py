from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.assemblies import synthesized

from cdk_inference.local import LocalCloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.local.uploads import Pipeline

APP = Path(__file__).with_name("app")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the probe app, for a test that leaves something in its folder."""
    return Path(shutil.copytree(APP, tmp_path / "app"))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Synthesize the probe app with some context, and return the folder of an app that hands that over."""

    def make(**context: str) -> Path:
        return synthesized(APP / "app.py", tmp_path_factory.mktemp("ready"), context)

    return make


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """An embedded AWS in which what fails is tried again at once."""
    with LocalCloud(retry_after=0) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def probe(local_cloud: LocalCloud, ready: Callable[..., Path]) -> Pipeline:
    """The probe app, deployed."""
    local_cloud.deploy(ready())
    return local_cloud.pipeline("LocalProbe")
