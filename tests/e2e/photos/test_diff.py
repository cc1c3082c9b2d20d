"""`cdk diff` shows what has changed, and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.assemblies import synthesized

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.local import Cloud

pytestmark = pytest.mark.e2e


def test_nothing_has_changed_in_another_folder(cloud: Cloud, repository: Path, tmp_path: Path) -> None:
    """That a model and a bundle get the same bytes again is tested with the reference app for AWS."""
    assert cloud.diff(synthesized(repository / "app.py", tmp_path / "synthesized")) == ""


def test_a_change_shows(cloud: Cloud, project: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(project, changed, ignore=shutil.ignore_patterns(".cdk-inference"))
    script = changed / "app.py"
    before = script.read_text()
    script.write_text(before.replace("Preprocess.image(size=224)", "Preprocess.image(size=224, crop=0.9)"))
    assert script.read_text() != before
    diff = cloud.diff(synthesized(script, tmp_path / "synthesized"))
    assert [line for line in diff.splitlines() if line.startswith("[~]")] != []
    assert "0.9" in diff
    assert "AWS::DynamoDB" not in diff
