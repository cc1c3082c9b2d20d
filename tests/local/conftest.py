from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.local.uploads import Pipeline

APP = Path(__file__).with_name("app")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the probe app, for a test that leaves something in its folder."""
    return Path(shutil.copytree(APP, tmp_path / "app"))


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """An embedded AWS in which what fails is tried again at once."""
    with LocalCloud(retry_after=0) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def probe(local_cloud: LocalCloud) -> Pipeline:
    """The probe app, deployed."""
    local_cloud.deploy(APP)
    return local_cloud.pipeline("LocalProbe")
