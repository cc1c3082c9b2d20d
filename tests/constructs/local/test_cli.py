"""The command line, as a user and as a script meet it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest
from tests.constructs.local.processes import children, commands, gone
from tests.constructs.local.templates import create, pipeline
from tests.waiting import PATIENCE, wait_until

from cdk_inference.local import cli
from cdk_inference.local.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has imported it."""
    terminated, code = signal.getsignal(signal.SIGTERM), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["cdk_inference.local", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, terminated)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run_alone(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it as users do, in a separate process."""
    command = [sys.executable, "-m", "cdk_inference.local", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=os.environ | (env or {})
    )


@contextmanager
def served(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The background process of a project. Its app synthesizes nothing, so that it cannot be deployed."""
    (folder / ".cdk-inference").mkdir()
    command = [sys.executable, "-m", "cdk_inference.local", "serve"]
    serving = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        wait_until((folder / ".cdk-inference/local.json").exists)
        yield serving
    finally:
        serving.terminate()
        serving.communicate()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose embedded AWS runs."""
    folder = tmp_path_factory.mktemp("project")
    with served(folder) as serving:
        yield folder
        assert serving.poll() is None
        serving.terminate()
        assert serving.wait(PATIENCE) == 0


@pytest.mark.e2e
def test_from_deploy_to_destroy(app: Path, ready: Callable[..., Path]) -> None:
    good, poison = app / "good one.txt", app / "poison.txt"
    good.write_text("good")
    poison.write_text("poison")
    env = {"AWS_PROFILE": "nonexistent", "CDK_INFERENCE_CACHE": str(app / "cache")}
    try:
        first = run_alone(app, "deploy", "-c", "visibility=10", env=env)
        assert first.returncode == 0, first.stderr
        assert "synthesizing the app ..." in first.stderr
        assert "deployed LocalProbe to http://127.0.0.1:" in first.stdout
        assert not (app / "cdk.out").exists()
        state = json.loads((app / ".cdk-inference/local.json").read_text())

        succeeded = run_alone(app, "put", good.name, "--wait", "--json")
        assert succeeded.returncode == 0, succeeded.stderr
        row = json.loads(succeeded.stdout)
        assert (row["key"], row["status"], row["label"], row["class_index"]) == (
            "in/good one.txt",
            "SUCCEEDED",
            "cat",
            3,
        )
        assert row["seconds"] > 0

        watching = subprocess.Popen(
            [sys.executable, "-m", "cdk_inference.local", "watch", "-c", "visibility=10"],
            cwd=app,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout.readline().endswith("; any other change is deployed\n")  # nothing has changed since
        watching.send_signal(signal.SIGINT)
        said, _ = watching.communicate(timeout=PATIENCE)
        assert watching.returncode == 0
        assert said.endswith("stopped watching; the embedded AWS goes on until destroy\n")

        failed = run(app, "put", poison.name, good.name, "--prefix", "in/second/", "--wait", "--json")
        assert failed.returncode == 1
        assert [json.loads(line)["status"] for line in failed.stdout.splitlines()] == ["DEAD_LETTER", "SUCCEEDED"]

        named = run(app, "put", good.name, "--key", "in/bad")
        assert named.returncode == 0
        assert named.stdout.endswith("/in/bad\n")

        assembly = ready(visibility="11").with_name("assembly")
        again = run(app, "deploy", "--app", str(assembly), "--verbose")
        assert again.returncode == 0, again.stderr
        assert "synthesizing" not in again.stderr
        assert "LocalProbe | " in again.stderr  # the CLI's events
        assert json.loads((app / ".cdk-inference/local.json").read_text()) == state  # the same one, results kept

        listed = run(app, "results", "--json")
        assert listed.returncode == 0
        rows = {row["key"]: row for row in map(json.loads, listed.stdout.splitlines())}
        assert {"in/good one.txt", "in/second/good one.txt", "in/second/poison.txt"} <= set(rows)
        assert "SUCCEEDED" in run(app, "results").stdout
        assert "scoring in/good one.txt" in run(app, "logs").stdout
    finally:
        ended = run_alone(app, "destroy")
    assert ended.returncode == 0
    assert ended.stdout == "destroyed\n"
    assert gone(state["pid"], app / ".cdk-inference")
    assert run(app, "destroy").stdout == "nothing was deployed\n"


def test_retries_wait_for_a_second_unless_told_otherwise(app: Path, project: Path) -> None:
    assert Background(project).cloud().retry_after == 1
    shutil.copy(app / "cdk.json", project)
    refused = run(project, "deploy", "--aws-timing")
    assert refused.returncode == 1
    assert "must be given when the embedded AWS starts, got one that runs without; destroy it first" in refused.stderr


@pytest.mark.parametrize("command", [["results"], ["logs"], ["env"], ["put", "app.py"]])
def test_a_command_with_nothing_deployed_fails(app: Path, command: list[str]) -> None:
    answer = run(app, *command)
    assert answer.returncode == 3
    assert answer.stderr == f"error: {app} must be deployed locally; deploy it first\n"


def test_a_wrong_option_fails(app: Path) -> None:
    assert run(app, "deploy", "--nonsense").returncode == 2
    wrong = run(app, "deploy", "-c", "nonsense")
    assert wrong.returncode == 2
    assert "not of the form key=value" in wrong.stderr


def test_a_folder_without_an_app_fails_and_leaves_nothing(tmp_path: Path) -> None:
    answer = run(tmp_path, "deploy")
    assert answer.returncode == 1
    assert f"error: {tmp_path} must have a cdk.json, got none" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_app_that_raises_fails_and_leaves_nothing(app: Path) -> None:
    (app / "app.py").write_text("raise SystemExit('error: batch_size is 0; it must be between 1 and 10000')")
    before = sorted(app.iterdir())
    answer = run(app, "deploy")
    assert answer.returncode == 1
    assert answer.stderr.endswith("failed with exit code 1: batch_size is 0; it must be between 1 and 10000\n")
    assert "Traceback" not in answer.stderr
    assert sorted(app.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_deploy_ends_the_app(app: Path, number: signal.Signals) -> None:
    started = app / "started"
    (app / "app.py").write_text(f"import pathlib, time, os\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)")
    command = f"python3 {app / 'app.py'}"
    deploying = subprocess.Popen([sys.executable, "-m", "cdk_inference.local", "deploy", "--app", command], cwd=app)
    try:
        wait_until(started.exists)
        deploying.send_signal(number)
        assert deploying.wait(PATIENCE) != 0
        wait_until(lambda: command not in commands())
        if number != signal.SIGKILL:  # then the cloud stays: deploy again, or destroy
            assert not (app / ".cdk-inference").exists()
    finally:
        deploying.kill()
        deploying.wait()
        run(app, "destroy")


def test_a_killed_cloud_is_noticed_also_by_logs_that_are_followed(app: Path) -> None:
    state = app / ".cdk-inference/local.json"
    with served(app) as serving:
        (app / ".cdk-inference/local.log").write_text("2026-01-01T00:00:00.000+00:00 the first line\n")
        command = [sys.executable, "-m", "cdk_inference.local", "logs", "--follow"]
        with subprocess.Popen(command, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
            assert "the first line" in following.stdout.readline()
            serving.kill()
            said = following.stderr.read()
        assert following.returncode == 1
        ended = "error: the embedded AWS of this project must run, got one that"
        assert said == f"{ended} has ended: it was stopped or killed\n"
        serving.wait()
        answer = run(app, "results")
        assert answer.returncode == 3
        assert answer.stderr == f"{ended} was killed; deploy again\n"
        assert not state.exists()


def test_the_printed_environment_reaches_the_cloud_and_is_private(project: Path) -> None:
    state = project / ".cdk-inference/local.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
    call = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
    script = f'eval "$({sys.executable} -m cdk_inference.local env)" && {sys.executable} -c "{call}"'
    users = {"AWS_PROFILE": "nonexistent", "AWS_SESSION_TOKEN": "theirs", "AWS_ACCESS_KEY_ID": "theirs"}
    answer = subprocess.run(
        ["sh", "-c", script], cwd=project, env=os.environ | users, capture_output=True, text=True, check=False
    )
    assert answer.stdout == "arn:aws:iam::000000000000:root\n", answer.stderr


@pytest.mark.timeout(600)
def test_a_cloud_that_ends_by_itself_says_why(app: Path) -> None:
    with served(app) as serving:
        create(Background(app).cloud().client("cloudformation"), "Marked", pipeline())
        put = [sys.executable, "-m", "cdk_inference.local", "put", "app.py", "--wait", "--timeout", "3600"]
        with subprocess.Popen(put, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr.readline() == "waiting for 1 result ...\n"
            [emulator] = children(serving.pid)
            os.kill(emulator, signal.SIGKILL)
            said = waiting.stderr.read()
        assert waiting.returncode == 1
        log = app / ".cdk-inference/emulator.log"
        reason = (
            "the embedded AWS of this project must run, got one that has ended: "
            "the emulator of the embedded AWS was killed by SIGKILL; "
            f"its log: {log}"
        )
        assert said.splitlines()[-1] == f"error: {reason}"
        assert "Traceback" not in said
        assert log.is_file()
        assert "Traceback" not in serving.stderr.read()
        assert serving.wait() == 1
        later = run(app, "results")
        assert later.returncode == 3
        assert later.stderr == f"error: {reason}; deploy again\n"
        assert run(app, "destroy").stdout == "nothing was deployed\n"
        assert not log.exists()


def test_two_projects_have_an_embedded_aws_each(app: Path, project: Path) -> None:
    with served(app) as serving:
        clouds = [Background(folder).cloud() for folder in (app, project)]
        assert clouds[0].endpoint != clouds[1].endpoint
        for cloud in clouds:
            create(cloud.client("cloudformation"), "Marked", pipeline())
        assert run(app, "put", "app.py").returncode == 0
        assert run(app, "destroy").stdout == "destroyed\n"
        assert serving.wait() == 0
        assert run(project, "results", "--json").returncode == 0


def test_a_second_background_process_fails(project: Path) -> None:
    second = run_alone(project, "serve")
    assert second.returncode == 1
    assert "cannot be started twice" in second.stderr
