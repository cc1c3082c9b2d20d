"""Builds of CodeBuild that a workflow waits for: what they see, how they end, and what is refused."""

from __future__ import annotations

import io
import json
import time
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import wait_until

from cdk_inference.local import aws
from cdk_inference.local.emulator import _builds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdk_inference.local import LocalCloud

NO_SOURCE = {"type": "NO_SOURCE"}


def buildspec(*commands: str, **phases: list[str]) -> str:
    return json.dumps(
        {"version": "0.2", "phases": {name: {"commands": each} for name, each in {**phases, "build": commands}.items()}}
    )


def run(cloud: LocalCloud, source: dict[str, str], service: str = "codebuild") -> tuple[dict[str, Any], str]:
    """Run a build by a workflow, and return what became of the execution, and the log of the build."""
    name = f"project-{time.monotonic_ns()}"
    trust = {"Effect": "Allow", "Principal": {"Service": f"{service}.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = cloud.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    arn = role["Role"]["Arn"]
    cloud.client("codebuild").create_project(
        name=name,
        source=source,
        artifacts={"type": "NO_ARTIFACTS"},
        environment={
            "type": "LINUX_CONTAINER",
            "image": "aws/codebuild/standard:7.0",
            "computeType": "BUILD_GENERAL1_SMALL",
            "environmentVariables": [{"name": "OWN", "value": "own"}, {"name": "GIVEN", "value": "overridden"}],
        },
        serviceRole=arn,
    )
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::codebuild:startBuild.sync",
        "Parameters": {
            "ProjectName": name,
            "EnvironmentVariablesOverride": [{"Name": "GIVEN", "Type": "PLAINTEXT", "Value": "given"}],
        },
        "End": True,
    }
    states = cloud.client("stepfunctions")
    machine = states.create_state_machine(
        name=name, roleArn=arn, definition=json.dumps({"StartAt": "Build", "States": {"Build": state}})
    )
    execution = states.start_execution(stateMachineArn=machine["stateMachineArn"])["executionArn"]
    wait_until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING")
    events = cloud.client("logs").filter_log_events(logGroupName=f"/aws/codebuild/{name}")["events"]
    return states.describe_execution(executionArn=execution), "\n".join(event["message"] for event in events)


def test_a_build_has_its_source_its_variables_and_the_rights_of_its_role(local_cloud: LocalCloud) -> None:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("told.txt", "from the source")
    s3 = local_cloud.client("s3")
    s3.create_bucket(Bucket="sources")
    s3.put_object(Bucket="sources", Key="a/source.zip", Body=package.getvalue())
    ask = 'python -c \'import boto3; print(boto3.client("sts").get_caller_identity()["Arn"])\''
    spec = buildspec("cat told.txt; echo", "export LATER=later", "echo $OWN $GIVEN $LATER", ask, install=["exit 1"])
    source = {"type": "S3", "location": "sources/a/source.zip", "buildspec": spec}
    execution, log = run(local_cloud, source)
    assert execution["status"] == "SUCCEEDED", log
    assert json.loads(execution["output"])["Build"]["BuildStatus"] == "SUCCEEDED"
    first, second, third, last = log.splitlines()
    assert (first, second) == ("from the source", "own given later")
    assert third.startswith(f"arn:aws:sts::{aws.ACCOUNT}:assumed-role/project-")
    assert last == "the build ended with code 0"


@pytest.mark.parametrize(
    ("source", "service", "status", "said"),
    [
        ({**NO_SOURCE, "buildspec": buildspec("false", "echo never")}, "codebuild", "FAILED", "ended with code 1"),
        ({**NO_SOURCE, "buildspec": buildspec("kill -9 $$")}, "codebuild", "FAILED", "ended with code -9"),
        ({**NO_SOURCE, "buildspec": "a file.yml"}, "codebuild", "FAULT", "buildspec must be an inline one"),
        (
            {"type": "GITHUB", "location": "x", "buildspec": "{}"},
            "codebuild",
            "FAULT",
            "source must be S3 or NO_SOURCE",
        ),
        ({"type": "S3", "location": "sources/none.zip", "buildspec": "{}"}, "codebuild", "FAULT", "there is no s3://"),
        ({**NO_SOURCE, "buildspec": buildspec("true")}, "lambda", "FAULT", "does not let codebuild.amazonaws.com"),
    ],
    ids=["fails", "dies", "file", "github", "no source", "no trust"],
)
def test_a_build_that_goes_wrong_fails_its_state_and_says_why(
    local_cloud: LocalCloud, source: dict[str, str], service: str, status: str, said: str
) -> None:
    execution, log = run(local_cloud, source, service)
    assert (execution["status"], execution["error"]) == ("FAILED", "States.TaskFailed")
    assert json.loads(execution["cause"])["BuildStatus"] == status
    assert said in log
    assert "never" not in log


def test_a_build_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[Callable[[], None]] = []

    class Timer:
        """Goes off when the test says so."""

        def __init__(self, seconds: float, stop: Callable[[], None]) -> None:
            assert seconds == 300
            stops.append(stop)

        def start(self) -> None: ...
        def cancel(self) -> None: ...

    monkeypatch.setattr(_builds.threading, "Timer", Timer)
    monkeypatch.setenv("GATEWAY_PORT", "1")
    keys = dict.fromkeys(("AccessKeyId", "SecretAccessKey", "SessionToken"), "x")
    builds = _builds._Builds(None, tmp_path / "builds", lambda _: (200, keys), {"PATH": "/usr/bin:/bin"})
    source = {**NO_SOURCE, "buildspec": buildspec("(echo begun; sleep 600)", "true")}
    project = {"source": source, "serviceRole": "r", "arn": "arn:aws:codebuild:eu-west-1:1:p", "environment": {}}
    log: list[str] = []

    def told(line: str) -> None:
        log.append(line)
        stops[0]()

    build = {"timeoutInMinutes": 5}
    assert builds._execute(build, project, {}, tmp_path, told) == "TIMED_OUT"
    assert log == ["begun"]
