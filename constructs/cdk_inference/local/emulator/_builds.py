"""Builds of CodeBuild that workflows wait for: MiniStack has projects, and neither runs nor waits for their builds.

A build runs as a process of this machine: the commands of an inline buildspec, with the rights of the project's role.
The phase ``install`` is left out, since what it would install is what this machine has. Runs in the process of the
embedded AWS, see `_ministack`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PHASES = ("pre_build", "build", "post_build")
_OK = 200


def install(folder: Path, variables: Path, credentials: Callable[[dict[str, str]], tuple[int, dict[str, Any]]]) -> None:
    """Run builds for workflows.

    Parameters
    ----------
    folder
        Where builds have their files.
    variables
        A file of JSON with variables that builds have besides those of their project.
    credentials
        Lets a service assume a role.
    """
    from ministack.services import stepfunctions  # noqa: PLC0415

    given = {"PATH": _paths(), **json.loads(variables.read_text())}
    builds = _Builds(stepfunctions, folder, credentials, given)
    stepfunctions._SERVICE_DISPATCH["arn:aws:states:::codebuild:startBuild"] = builds.run
    put = stepfunctions._SERVICE_DISPATCH["arn:aws:states:::events:putEvents"]
    stepfunctions._SERVICE_DISPATCH["arn:aws:states:::events:putEvents"] = lambda resource, given: put(
        resource, {**given, "Entries": [_with_text(entry) for entry in given["Entries"]]}
    )


def _with_text(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an event whose detail is text, as Step Functions sends it: a definition has it as an object."""
    detail = entry.get("Detail", {})
    return {**entry, "Detail": detail if isinstance(detail, str) else json.dumps(detail)}


def _paths() -> str:
    """Return where builds find programs, with those of our environment first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


class _Builds:
    """Starts a build, and waits for its end.

    Parameters
    ----------
    stepfunctions
        MiniStack's module.
    folder, credentials
        As those of `install`.
    variables
        Variables that all builds have.
    """

    def __init__(
        self,
        stepfunctions: Any,  # noqa: ANN401
        folder: Path,
        credentials: Callable[..., Any],
        variables: dict[str, str],
    ) -> None:
        self._sfn, self._folder, self._credentials, self._variables = stepfunctions, folder, credentials, variables
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, resource: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the state of a workflow asks for."""
        from ministack.services import codebuild  # noqa: PLC0415

        status, _, body = codebuild._start_build({"projectName": given["ProjectName"]})
        answer = json.loads(body)
        if status != _OK:
            raise self._sfn._ExecutionError(f"CodeBuild.{answer.get('__type', 'CodeBuildException')}", body.decode())
        build = codebuild._builds[answer["build"]["id"]]
        project = codebuild._projects[given["ProjectName"]]
        build["buildStatus"] = "IN_PROGRESS"
        overridden = {one["Name"]: one["Value"] for one in given.get("EnvironmentVariablesOverride", ())}
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            build["buildStatus"] = self._execute(build, project, overridden, folder, codebuild._log_sink(build))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        described = {"Build": {name[0].upper() + name[1:]: value for name, value in build.items()}}
        if resource.endswith(".sync") and build["buildStatus"] != "SUCCEEDED":
            raise self._sfn._ExecutionError("States.TaskFailed", json.dumps(described["Build"], default=str))
        answered: dict[str, Any] = json.loads(json.dumps(described, default=str))
        return answered

    def _execute(
        self,
        build: Mapping[str, Any],
        project: Mapping[str, Any],
        overridden: Mapping[str, str],
        folder: Path,
        log: Callable[[str], object],
    ) -> str:
        """Run the commands, and return the status of the build."""
        try:
            self._fetch_source(project, folder)
            script = "\n".join(["set -e", *_commands(project["source"].get("buildspec", ""))])
            environment = {**self._environment(project), **overridden}
        except (OSError, ValueError, KeyError) as error:
            log(f"the build cannot start: {error}")
            return "FAULT"
        # In the group of the embedded AWS, and so gone with it.
        process = subprocess.Popen(  # noqa: S603 - the commands of a project that the user has deployed
            ["bash", "-c", script],  # noqa: S607 - that of this machine, as for a user
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            for pid in _started_by(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(60 * int(build["timeoutInMinutes"]), stop)
        timer.start()
        try:
            for line in process.stdout or ():
                log(line.rstrip())
            code = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            return "TIMED_OUT"
        log(f"the build ended with code {code}")
        return "SUCCEEDED" if code == 0 else "FAILED"

    def _fetch_source(self, project: Mapping[str, Any], folder: Path) -> None:
        """Unpack the source of a project, a zip in S3."""
        from ministack.services import s3  # noqa: PLC0415

        source = project["source"]
        if source["type"] == "NO_SOURCE":
            return
        if source["type"] != "S3":
            raise ValueError(f"the source must be S3 or NO_SOURCE in the embedded AWS, got {source['type']}")
        bucket, _, key = source["location"].removeprefix("arn:aws:s3:::").partition("/")
        status, _, body = s3._get_object(bucket, key, {}, {})
        if status != _OK:
            raise ValueError(f"there is no s3://{bucket}/{key}")
        with zipfile.ZipFile(io.BytesIO(bytes(body))) as package:
            package.extractall(folder)

    def _environment(self, project: Mapping[str, Any]) -> dict[str, str]:
        """Return the variables of a build: its own, and credentials of the project's role."""
        asked = {"Service": "codebuild.amazonaws.com", "RoleArn": project["serviceRole"], "SourceArn": project["arn"]}
        status, given = self._credentials(asked)
        if status != _OK:
            raise ValueError(given["message"])
        region = project["arn"].split(":")[3]
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ", "TMPDIR") if name in os.environ}
        own = {one["name"]: one["value"] for one in project["environment"].get("environmentVariables", ())}
        return {
            **kept,
            **self._variables,
            "HOME": str(self._folder),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONUNBUFFERED": "1",
            **own,
        }


def _started_by(pid: int) -> list[int]:
    """Return a process and all that it has started: their group is that of the embedded AWS, which goes on."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607 - as above
    children = defaultdict(list)
    for line in listed.stdout.splitlines():
        child, parent = map(int, line.split())
        children[parent].append(child)
    found = [pid]
    for each in found:
        found += children[each]
    return found


def _commands(buildspec: str) -> list[str]:
    """Return the commands of a buildspec."""
    try:
        phases = json.loads(buildspec)["phases"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("buildspec must be an inline one, as BuildSpec.from_object makes it") from None
    return [command for phase in _PHASES for command in phases.get(phase, {}).get("commands", ())]
