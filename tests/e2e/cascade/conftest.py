"""The example cascade, from a copy in another folder, and an app with every strategy, in one embedded AWS."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud
from tests.assemblies import synthesized
from tests.e2e.quick import QuickEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

REPOSITORY = Path(__file__).parents[3]
STRATEGIES = Path(__file__).with_name("app")
EXAMPLE = "examples/cascade/app.py"
# Objects that the user's function cannot decide, and one that it can, in the same batch.
UNDECIDED = {
    "function/few but decided.json": "SUCCEEDED",
    "function/fails.json": "DEAD_LETTER",
    "function/nowhere.json": "DEAD_LETTER",
}


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example."""
    folder = tmp_path_factory.mktemp("cascade")
    for name in ("examples/cascade", "model_assets/efficientnet_lite", "model_assets/photographs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "cdk.json", folder)
    return folder


@pytest.fixture(scope="package")
def cloud(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    made = tmp_path_factory.mktemp("synthesized")
    strategies = synthesized(STRATEGIES / "app.py", made / "strategies")
    example = synthesized(project / EXAMPLE, made / "example", settings=project / "cdk.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud(retry_after=2) as cloud:
            cloud.deploy(strategies)
            for key in UNDECIDED:  # now, since it takes a while until they are dead
                cloud.pipeline("Strategies/Numbers").put(key, b'{"a": 1, "b": 0, "c": 0, "d": 0}')
            cloud.deploy(example)
            yield cloud


def by_route(pipeline: Watched) -> Watched:
    """Let functions be known by route and stage, such as "lite2 Inference"; the roles' names too."""
    for resource in pipeline.cloud.resources(pipeline=pipeline.name, type="AWS::Lambda::Function"):
        for route in ("lite0", "lite2", "small", "large"):
            if f"Routes{route}" in resource.logical_id:
                pipeline.functions[f"{route} {resource.metadata['stage']}"] = resource.physical_id
    return pipeline


@pytest.fixture(scope="package")
def photos(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return by_route(watch(cloud, "PhotoCascade/Photos"))


@pytest.fixture(scope="package")
def gpu_machine(cloud: LocalCloud) -> str:
    """The workflow that waits for the GPU."""
    (machine,) = cloud.resources(role="gpu-state-machine")
    return machine.physical_id


@pytest.fixture(scope="package")
def numbers(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return by_route(watch(cloud, "Strategies/Numbers"))


@pytest.fixture(scope="package")
def undecided(cloud: LocalCloud) -> dict[str, str]:
    """Keys that were put into the inbox, with what becomes of them."""
    return UNDECIDED


@pytest.fixture(scope="package")
def photographs(project: Path) -> dict[str, bytes]:
    """The sample photographs by file name."""
    folder = project / "model_assets" / "photographs"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".json"}
