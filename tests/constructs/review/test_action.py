"""The action for pull requests: its scripts run as they are, with a stand-in for GitHub's command line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .conftest import changed
from .test_review import replaced_table

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.xdist_group("review")

ROOT = Path(__file__).parents[3]
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "review" / "action.yml").read_text("utf-8"))
REVIEW, UPLOAD, COMMENT, FAIL = ACTION["runs"]["steps"]
# It writes down what it is asked, and says the id of the comment that is there.
GH = """#!/bin/sh
printf '%s\\n' "$*" >> "$ASKED"
case "$*" in *--jq*) printf '%s' "$FOUND";; esac
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a step as GitHub does; files named by variables of GitHub are in the test's folder."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "ASKED")}

    def run(step: dict[str, Any], **env: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        given = {**os.environ, **files, "PATH": path, "RUNNER_TEMP": str(tmp_path), **env}
        return subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def inputs(**given: str) -> dict[str, str]:
    """Return the environment of the first step: its inputs, or their defaults."""
    expressions = {name: value.removeprefix("${{ inputs.").removesuffix(" }}") for name, value in REVIEW["env"].items()}
    return {name: given.get(key, str(ACTION["inputs"][key]["default"])) for name, key in expressions.items()}


def test_the_comment_is_written_before_the_job_fails(
    run: Callable[..., Any], synthesized: Path, tmp_path: Path
) -> None:
    changed(synthesized, tmp_path / "cdk.out", replaced_table)
    done = run(REVIEW, **inputs(against=str(synthesized), **{"fail-on": "danger"}))
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("=", 1) for line in (tmp_path / "GITHUB_OUTPUT").read_text().splitlines())
    assert outputs["code"] == "3"
    assert Path(outputs["page"]).read_text().startswith("<!DOCTYPE html>")
    markdown = Path(outputs["markdown"]).read_text()
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == markdown
    assert "Data at risk: table Photos/Results/Table" in markdown
    assert FAIL["if"] == "steps.review.outputs.code == '3'"
    assert run(FAIL).returncode == 3


def test_a_review_that_fails_fails_the_job(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(REVIEW, **inputs(assembly="nowhere"))
    assert done.returncode == 1
    assert "nowhere must be a cloud assembly" in done.stderr
    assert not (tmp_path / "GITHUB_OUTPUT").exists()


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ("", "api repos/o/n/issues/7/comments --field body=@review.md --silent"),
        ("42", "api --method PATCH repos/o/n/issues/comments/42 --field body=@review.md --silent"),
    ],
)
def test_one_comment_is_made_or_replaced(run: Callable[..., Any], tmp_path: Path, found: str, asked: str) -> None:
    places = {"COMMENTS": "repos/o/n/issues/7/comments", "COMMENT": "repos/o/n/issues/comments"}
    assert run(COMMENT, FOUND=found, MARKDOWN="review.md", **places).returncode == 0
    look, write = (tmp_path / "ASKED").read_text().splitlines()
    assert look.startswith("api --paginate repos/o/n/issues/7/comments --jq ")
    assert write == asked


def test_no_expression_is_part_of_a_script() -> None:
    assert [step["run"] for step in (REVIEW, COMMENT, FAIL) if "${{" in step["run"]] == []
    assert UPLOAD["with"]["path"] == "${{ steps.review.outputs.page }}"
