"""The command line: exit codes, files, and an app that git has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cdk_inference.review.cli import app as command
from cdk_inference.review.errors import ReviewError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("review")

# An app as the CDK CLI sees any: a program that writes a cloud assembly.
APP = """
import json, os, pathlib
out = pathlib.Path(os.environ["CDK_OUTDIR"])
out.mkdir(parents=True, exist_ok=True)
template = json.loads(pathlib.Path("template.json").read_text())
(out / "Stack.template.json").write_text(json.dumps(template))
stack = {
    "type": "aws:cloudformation:stack",
    "environment": "aws://unknown-account/unknown-region",
    "properties": {"templateFile": "Stack.template.json"},
}
(out / "manifest.json").write_text(json.dumps({"version": "36.0.0", "artifacts": {"Stack": stack}}))
"""


def template(**table: Any) -> str:
    key = {"AttributeName": "id", "KeyType": "HASH"}
    properties = {"AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}], "KeySchema": [key]}
    resource = {"Type": "AWS::DynamoDB::Table", "Properties": properties | table}
    return json.dumps({"Resources": {"Rows": resource}})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an app in a folder, whose last commit has another table than the cloud assembly."""
    root = tmp_path_factory.mktemp("repository")
    folder = root / "apps" / "shop"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "cdk.json").write_text(json.dumps({"app": f"{sys.executable} app.py"}))
    (folder / "template.json").write_text(template())
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for arguments in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message", "first")):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    outdir = folder / "cdk.out"
    (folder / "template.json").write_text(template(TableName="another", DeletionProtectionEnabled=True))
    subprocess.run([sys.executable, "app.py"], cwd=folder, env={"CDK_OUTDIR": str(outdir)}, check=True)
    return root


def test_a_git_ref_is_synthesized_and_leaves_nothing_behind(repository: Path, tmp_path: Path) -> None:
    folder, page, text = repository / "apps" / "shop", tmp_path / "review.html", tmp_path / "review.md"
    options = ("--against", "HEAD", "--app-folder", folder, "--output", page, "--output", text, "--fail-on", "danger")
    done = run(folder / "cdk.out", *options)
    assert done.exit_code == 3, done.output
    assert "danger: Data at risk: table Rows (replaced: a new one starts empty, the old one is deleted)." in done.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert text.read_text().startswith("<!-- cdk-inference review -->\n## Review of Stack, against HEAD")
    trees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1
    assert (folder / "template.json").read_text() == template(TableName="another", DeletionProtectionEnabled=True)


def test_the_exit_code_is_0_unless_somebody_asks(synthesized: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(synthesized, tmp_path / "cdk.out")
    for arguments in ((copy,), (copy, "--against", synthesized, "--fail-on", "warning")):
        done = run(*arguments)
        assert (done.exit_code, "danger" in done.stdout) == (0, False), done.output


def test_an_unknown_ref_and_a_missing_assembly_are_errors(repository: Path, tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 1
    folder = repository / "apps" / "shop"
    for ref in ("no-such-branch", "--help"):
        done = run(folder / "cdk.out", f"--against={ref}", "--app-folder", folder)
        assert done.exit_code == 1
        assert f"got '{ref}'" in str(done.exception)


def test_a_ref_without_the_folder_of_the_app_is_an_error(repository: Path) -> None:
    folder = repository / "apps" / "new"
    folder.mkdir()
    done = run(repository / "apps" / "shop" / "cdk.out", "--against", "HEAD", "--app-folder", folder)
    assert isinstance(done.exception, ReviewError)
    assert str(done.exception) == (
        "app-folder must be a folder of the git ref HEAD, got 'apps/new/'; name a ref that has the app"
    )
    trees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--output", "review.pdf"), ("--fail-on", "doubt"), ("--items-per-month", "-1")])
def test_wrong_usage_is_2(synthesized: Path, arguments: tuple[str, ...]) -> None:
    assert run(synthesized, *arguments).exit_code == 2


def test_the_module_is_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cdk_inference.review", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"error: {tmp_path} must be a cloud assembly, got no manifest.json in it; run cdk synth first\n"
    )


def test_neither_cdk_nor_a_model_is_loaded() -> None:
    program = "import sys, cdk_inference.review.cli; print({'aws_cdk', 'jsii', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
