"""The app whose items come from other places than a bucket, deployed once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud, PipeRunner
from tests.assemblies import synthesized
from tests.e2e.conftest import Watched
from tests.e2e.quick import QuickEmulator
from tests.e2e.triggers.messages import Messages
from tests.e2e.triggers.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = Path(__file__).with_name("app")


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    app = synthesized(APP / "app.py", tmp_path_factory.mktemp("triggers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud(pipes=False) as cloud:
            cloud.deploy(app)
            yield cloud


@pytest.fixture(scope="package")
def pipes(cloud: LocalCloud) -> Iterator[PipeRunner]:
    with PipeRunner(cloud.endpoint, retry_after=2) as runner:
        yield runner


@pytest.fixture(scope="package")
def texts(cloud: LocalCloud) -> Messages:
    return Messages(cloud, "Triggers/Texts", "TextQueue")


@pytest.fixture(scope="package")
def orders(cloud: LocalCloud) -> Messages:
    return Messages(cloud, "Triggers/Records", "OrderQueue", queue="orders")


@pytest.fixture(scope="package")
def numbers(cloud: LocalCloud) -> Messages:
    return Messages(cloud, "Triggers/Numbers", "NumberQueue")


@pytest.fixture(scope="package")
def direct(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Triggers/Direct")


@pytest.fixture(scope="package")
def calls(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Triggers/Calls")


@pytest.fixture(scope="package")
def dictation(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Media/Dictation")


@pytest.fixture(scope="package")
def voices(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Media/Voices")


@pytest.fixture(scope="package")
def decisions(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Media/Decisions")


@pytest.fixture(scope="package")
def labels(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Media/Labels")


@pytest.fixture(scope="package")
def written(cloud: LocalCloud) -> Watched:
    return Watched(cloud, "Triggers/Written")


@pytest.fixture(scope="package")
def nightly(cloud: LocalCloud) -> Messages:
    return Messages(cloud, "Triggers/Nightly", "NightlyRuns")


@pytest.fixture(scope="package")
def clicks(cloud: LocalCloud) -> Messages:
    return Messages(cloud, "Triggers/Stream", "ClickStream", source="kinesis:clicks")


@pytest.fixture(scope="package")
def users(cloud: LocalCloud) -> Messages:
    (table,) = (one for one in cloud.resources(type="AWS::DynamoDB::Table") if one.logical_id.startswith("Users"))
    return Messages(cloud, "Triggers/Table", "UserStream", source=f"dynamodb:{table.physical_id}")


@pytest.fixture(scope="package")
def lines(cloud: LocalCloud, pipes: PipeRunner) -> Parts:
    return Parts(cloud, "Triggers/Lines", "JsonLines")


@pytest.fixture(scope="package")
def archives(cloud: LocalCloud, pipes: PipeRunner) -> Parts:
    return Parts(cloud, "Triggers/Archives", "Zips", collects=True)


@pytest.fixture(scope="package")
def films(cloud: LocalCloud, pipes: PipeRunner) -> Parts:
    return Parts(cloud, "Media/Films", "Videos")


@pytest.fixture(scope="package")
def cameras(cloud: LocalCloud, pipes: PipeRunner) -> Parts:
    return Parts(cloud, "Media/Cameras", "Recordings")
