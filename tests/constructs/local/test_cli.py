"""The command line, as a user and as a script meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.constructs.local.processes import children, commands, gone
from tests.constructs.local.templates import create, pipeline
from tests.waiting import PATIENCE, wait_until

from cdk_inference.local.background import Background

if TYPE_CHECKING:
    from pathlib import Path


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdk_inference.local", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=os.environ | (env or {})
    )


@pytest.mark.e2e
def test_from_deploy_to_destroy(app: Path) -> None:
    good, poison = app / "good one.txt", app / "poison.txt"
    good.write_text("good")
    poison.write_text("poison")
    try:
        first = run(
            app,
            "deploy",
            "-c",
            "visibility=10",
            env={"AWS_PROFILE": "nonexistent", "CDK_INFERENCE_CACHE": str(app / "cache")},
        )
        assert first.returncode == 0, first.stderr
        assert "synthesizing the app ..." in first.stderr
        assert "deployed LocalProbe to http://127.0.0.1:" in first.stdout
        assert not (app / "cdk.out").exists()
        state = json.loads((app / ".cdk-inference/local.json").read_text())

        succeeded = run(app, "put", good.name, "--wait", "--json")
        assert succeeded.returncode == 0, succeeded.stderr
        row = json.loads(succeeded.stdout)
        assert (row["key"], row["status"], row["label"], row["class_index"]) == (
            "in/good one.txt",
            "SUCCEEDED",
            "cat",
            3,
        )
        assert row["seconds"] > 0

        failed = run(app, "put", poison.name, good.name, "--prefix", "in/second/", "--wait", "--json")
        assert failed.returncode == 1
        assert [json.loads(line)["status"] for line in failed.stdout.splitlines()] == ["DEAD_LETTER", "SUCCEEDED"]

        named = run(app, "put", good.name, "--key", "in/bad")
        assert named.returncode == 0
        assert named.stdout.endswith("/in/bad\n")

        listed = run(app, "results", "--json")
        assert listed.returncode == 0
        rows = {row["key"]: row for row in map(json.loads, listed.stdout.splitlines())}
        assert {"in/good one.txt", "in/second/good one.txt", "in/second/poison.txt"} <= set(rows)
        assert "SUCCEEDED" in run(app, "results").stdout
        assert "scoring in/good one.txt" in run(app, "logs").stdout

        script = app / "app.py"
        window = '"maximumBatchingWindowInSeconds": '
        assert f"{window}1" in script.read_text()
        script.write_text(script.read_text().replace(f"{window}1", f"{window}2"))
        again = run(app, "deploy", "-c", "visibility=10", "--verbose")
        assert again.returncode == 0, again.stderr
        assert "LocalProbe | " in again.stderr  # the CLI's events
        assert json.loads((app / ".cdk-inference/local.json").read_text()) == state  # the same one, results kept
        assert len(run(app, "results", "--json").stdout.splitlines()) >= len(rows)
    finally:
        ended = run(app, "destroy")
    assert ended.returncode == 0
    assert ended.stdout == "destroyed\n"
    assert gone(state["pid"], app / ".cdk-inference")
    assert run(app, "destroy").stdout == "nothing was deployed\n"


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
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


def test_a_killed_cloud_is_noticed(app: Path) -> None:
    # An app that synthesizes nothing: deploying it fails, so we start the background process ourselves.
    serving = subprocess.Popen([sys.executable, "-m", "cdk_inference.local", "serve"], cwd=_folder(app))
    state = app / ".cdk-inference/local.json"
    try:
        wait_until(state.exists)
        serving.send_signal(signal.SIGKILL)
        serving.wait()
        answer = run(app, "results")
        assert answer.returncode == 3
        assert "must run, got one that was killed; deploy again" in answer.stderr
        assert not state.exists()
    finally:
        serving.kill()
        serving.wait()


def test_the_printed_environment_reaches_the_cloud_and_is_private(app: Path) -> None:
    serving = subprocess.Popen([sys.executable, "-m", "cdk_inference.local", "serve"], cwd=_folder(app))
    state = app / ".cdk-inference/local.json"
    try:
        wait_until(state.exists)
        assert state.stat().st_mode & 0o777 == 0o600
        assert state.parent.stat().st_mode & 0o777 == 0o700
        call = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
        script = f'eval "$({sys.executable} -m cdk_inference.local env)" && {sys.executable} -c "{call}"'
        users = {"AWS_PROFILE": "nonexistent", "AWS_SESSION_TOKEN": "theirs", "AWS_ACCESS_KEY_ID": "theirs"}
        answer = subprocess.run(
            ["sh", "-c", script], cwd=app, env=os.environ | users, capture_output=True, text=True, check=False
        )
        assert answer.stdout == "arn:aws:iam::000000000000:root\n", answer.stderr
    finally:
        serving.terminate()
        serving.wait()


@pytest.mark.timeout(600)
def test_a_cloud_that_ends_by_itself_says_why(app: Path) -> None:
    command = [sys.executable, "-m", "cdk_inference.local"]
    serving = subprocess.Popen([*command, "serve"], cwd=_folder(app), stderr=subprocess.PIPE, text=True)
    try:
        state = app / ".cdk-inference/local.json"
        wait_until(state.exists)
        create(Background(app).cloud().client("cloudformation"), "Marked", pipeline())
        put = [*command, "put", "app.py", "--wait", "--timeout", "3600"]
        with subprocess.Popen(put, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr.readline() == "waiting for 1 results ...\n"
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
        assert "Traceback" not in serving.communicate()[1]
        assert serving.returncode == 1
        later = run(app, "results")
        assert later.returncode == 3
        assert later.stderr == f"error: {reason}; deploy again\n"
        assert run(app, "destroy").stdout == "nothing was deployed\n"
        assert not log.exists()
    finally:
        serving.kill()
        serving.wait()


@pytest.mark.timeout(600)
def test_logs_that_are_followed_end_with_the_cloud(app: Path) -> None:
    command = [sys.executable, "-m", "cdk_inference.local"]
    serving = subprocess.Popen([*command, "serve"], cwd=_folder(app), stderr=subprocess.PIPE, text=True)
    try:
        log = app / ".cdk-inference/local.log"
        log.write_text("2026-01-01T00:00:00.000+00:00 the first line\n")
        wait_until((app / ".cdk-inference/local.json").exists)
        with subprocess.Popen(
            [*command, "logs", "--follow"], cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as following:
            assert "the first line" in following.stdout.readline()
            serving.kill()
            said = following.stderr.read()
        assert following.returncode == 1
        assert (
            said
            == "error: the embedded AWS of this project must run, got one that has ended: it was stopped or killed\n"
        )
    finally:
        serving.kill()
        serving.communicate()


def test_two_projects_have_an_embedded_aws_each(app: Path, tmp_path: Path) -> None:
    folders = [app, tmp_path / "another"]
    folders[1].mkdir()
    command = [sys.executable, "-m", "cdk_inference.local", "serve"]
    serving = [subprocess.Popen(command, cwd=_folder(folder)) for folder in folders]
    try:
        states = [folder / ".cdk-inference/local.json" for folder in folders]
        wait_until(lambda: all(state.exists() for state in states))
        clouds = [Background(folder).cloud() for folder in folders]
        assert len({cloud.endpoint for cloud in clouds}) == len(folders)
        for cloud in clouds:
            create(cloud.client("cloudformation"), "Marked", pipeline())
        assert run(folders[0], "put", "app.py").returncode == 0
        assert run(folders[0], "destroy").stdout == "destroyed\n"
        assert serving[0].wait() == 0
        assert run(folders[1], "results", "--json").returncode == 0
    finally:
        for process in serving:
            process.terminate()
            process.wait()


def test_a_second_background_process_fails(app: Path) -> None:
    first = subprocess.Popen([sys.executable, "-m", "cdk_inference.local", "serve"], cwd=_folder(app))
    try:
        wait_until((app / ".cdk-inference/local.json").exists)
        second = run(app, "serve")
        assert second.returncode == 1
        assert "cannot be started twice" in second.stderr
    finally:
        first.terminate()
        assert first.wait(PATIENCE) == 0


def _folder(app: Path) -> Path:
    (app / ".cdk-inference").mkdir()
    return app
