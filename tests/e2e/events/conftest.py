"""The app whose results are events, and which is watched, deployed once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.assemblies import synthesized
from tests.e2e.quick import quick_cloud

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

APP = Path(__file__).with_name("app")


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    app = synthesized(APP / "app.py", tmp_path_factory.mktemp("events"))
    with quick_cloud(app) as cloud:
        yield cloud


@pytest.fixture(scope="package")
def records(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return watch(cloud, "Events/Records")


@pytest.fixture(scope="package")
def watched(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return watch(cloud, "Drift/Records")
