"""The example for texts, deployed once from a copy in another folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud
from tests.assemblies import synthesized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Watched

REPOSITORY = Path(__file__).parents[3]
SCRIPT = "examples/sentences/app.py"


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    project = tmp_path_factory.mktemp("sentences")
    for name in ("examples/sentences", "model_assets/minilm"):
        shutil.copytree(REPOSITORY / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "cdk.json", project)
    app = synthesized(project / SCRIPT, tmp_path_factory.mktemp("synthesized"), settings=project / "cdk.json")
    with LocalCloud() as cloud:
        cloud.deploy(app)
        yield cloud


@pytest.fixture(scope="package")
def sentences(watch: type[Watched], cloud: LocalCloud) -> Watched:
    return watch(cloud, "SentenceEmbeddings/Sentences")
