"""The CDK CLI and the Node that runs it, both from PyPI packages, pointed at the embedded AWS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.exceptions import WaiterError

from cdk_inference.common.cache import cache_root, home, is_creatable
from cdk_inference.common.cdk_cli import installed_cdk
from cdk_inference.common.terminal import PASSES
from cdk_inference.local import aws
from cdk_inference.local.emulator.health import answering
from cdk_inference.local.errors import LocalError, MissingContextError
from cdk_inference.local.stacks import BOOTSTRAP_STACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_KILL_WITH_PARENT = Path(__file__).parent / "emulator" / "_kill_with_parent.py"
_BOOTSTRAP_TEMPLATE = "lib/api/bootstrap/bootstrap-template.yaml"
_ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"  # the default where no other account is trusted
_ALL = ("**",)  # --all leaves out the stacks of stages
_MANIFEST = "manifest.json"
_KEPT_LINES = 60  # of the output, for the message of a failure
_LOOK_SECONDS = 0.5  # between two looks at whether the embedded AWS still runs
# As `hide_tracebacks` prints it, or as the last line of a traceback.
_ERROR = re.compile(r"^(?:error|cdk_inference\.errors\.\w+): ")
_NOTICE_SECONDS = 5.0  # until whoever watches an embedded AWS that does not answer knows why


class CdkCli:
    """The real CDK CLI, running against the embedded AWS.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    home
        Folder for what the CLI remembers between runs; the user's own is not touched.
    on_line
        Called with each line of output.
    check
        Raises `LocalError` once a part of the embedded AWS has ended: the CLI ends then, too. Default: nothing.
    env
        Account and region whose root the CLI is.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        home: Path,
        on_line: Callable[[str], None] | None = None,
        check: Callable[[], None] | None = None,
        env: aws.Env = aws.DEFAULT_ENV,
    ) -> None:
        self._endpoint = endpoint
        self._env = env
        self._home = home
        self._check = check or (lambda: None)
        self._on_line = on_line or (lambda _: None)
        self._cdk = installed_cdk("local", LocalError)

    def bootstrap(self, *, trusted: str | None = None) -> None:
        """Create the bootstrap stack as ``cdk bootstrap`` does, from the CLI's own template, but without starting Node.

        Parameters
        ----------
        trusted
            Another account that may deploy.

        Raises
        ------
        LocalError
            If the stack is not created.
        """
        parameters = {"FileAssetsBucketKmsKeyId": "AWS_MANAGED_KEY"}
        if trusted:
            parameters |= {"TrustedAccounts": trusted, "CloudFormationExecutionPolicies": _ADMINISTRATOR}
        cloudformation = aws.client(self._endpoint, "cloudformation", self._env)
        with answering(self._check):
            cloudformation.create_stack(
                StackName=BOOTSTRAP_STACK,
                TemplateBody=(self._cdk.package / _BOOTSTRAP_TEMPLATE).read_text(),
                Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                Capabilities=["CAPABILITY_NAMED_IAM"],
            )
            try:
                waiter = cloudformation.get_waiter("stack_create_complete")
                waiter.wait(StackName=BOOTSTRAP_STACK, WaiterConfig={"Delay": 0.1, "MaxAttempts": 1200})
            except WaiterError as error:
                raise LocalError(f"the embedded AWS cannot be bootstrapped: {error}") from error

    def synth(
        self,
        *,
        folder: Path,
        output: Path,
        app: str | None = None,
        context: Mapping[str, str],
        lookups: bool = False,
    ) -> Path:
        """Synthesize an app.

        Parameters
        ----------
        folder
            Folder of the app, with its ``cdk.json``.
        output
            Folder for the cloud assembly.
        app
            Command that runs the app, by default the one in ``cdk.json``.
        context
            Context values that the CLI passes.
        lookups
            Whether the CLI asks the embedded AWS for what the app looks up, such as availability zones. It asks the
            roles of the bootstrap stacks, so they must be there. The app's ``cdk.context.json`` keeps what it has.

        Returns
        -------
        Path
            The cloud assembly.

        Raises
        ------
        MissingContextError
            If the app looks something up, and ``lookups`` is off.
        LocalError
            If the app or the CLI fails.
        """
        require_app(folder, app)
        chosen = ["--app", app] if app else []
        pairs = [part for name, value in context.items() for part in ("--context", f"{name}={value}")]
        command = ["synth", "--quiet", *chosen, "--output", str(output), *pairs]
        if lookups:
            with _restored(folder / "cdk.context.json"):
                self.run(*command, cwd=folder)
            return output
        (output / _MANIFEST).unlink(missing_ok=True)  # of an earlier synth, which looked up other things
        try:
            self.run(*command, "--no-lookups", cwd=folder)
        except LocalError as error:
            if _looks_up(output):
                raise MissingContextError(str(error), output) from error
            raise
        return output

    def deploy(self, assembly: Path, stacks: Sequence[str] = ()) -> None:
        """Deploy stacks of a cloud assembly.

        Parameters
        ----------
        assembly
            The cloud assembly.
        stacks
            Names or patterns, by default all stacks, those of stages included.

        Raises
        ------
        LocalError
            If the CLI fails.
        """
        self.run(
            "deploy",
            *(stacks or _ALL),
            "--app",
            str(assembly),
            "--require-approval",
            "never",
            "--progress",
            "events",
            cwd=self._nowhere(),
        )

    def diff(self, assembly: Path, stacks: Sequence[str] = ()) -> str:
        """Compare a cloud assembly with what is deployed.

        Parameters
        ----------
        assembly
            The cloud assembly.
        stacks
            Names or patterns, by default all stacks, those of stages included.

        Returns
        -------
        str
            The differences as ``cdk diff`` prints them, empty if there are none.
        """
        lines: list[str] = []
        status = self._run(["diff", *(stacks or _ALL), "--app", str(assembly), "--fail"], self._nowhere(), lines.append)
        return "\n".join(lines) if status else ""

    def run(self, *arguments: str, cwd: Path) -> None:
        """Run any CDK command.

        Parameters
        ----------
        *arguments
            The command and its options.
        cwd
            Folder to run in.

        Raises
        ------
        LocalError
            If it fails, with the end of its output.
        """
        tail: deque[str] = deque(maxlen=_KEPT_LINES)

        def keep(line: str) -> None:
            tail.append(line)
            self._on_line(line)

        status = self._run(list(arguments), cwd, keep)
        if status:
            raise LocalError(f"cdk {arguments[0]} failed with exit code {status}: {_reason(list(tail))}")

    def _nowhere(self) -> Path:
        """Return a folder without a ``cdk.json``, whose options would count."""
        empty = self._home / "empty"
        empty.mkdir(parents=True, exist_ok=True)
        return empty

    def environment(self) -> dict[str, str]:
        """Return the environment in which the CLI, and the app under it, run."""
        # The CLI takes every variable that starts with CDK_ for an option; ours are for the app.
        path = os.pathsep.join(
            [str(self._cdk.node.parent), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        )
        environment = aws.environment(self._endpoint, env=self._env)
        if not is_creatable(home() / ".cache" / "aws"):  # as in many containers; Node and jsii fail without a home
            environment |= {"HOME": str(self._home), "CDK_INFERENCE_CACHE": str(cache_root())}
        return environment | {
            "PATH": path,
            "JSII_NODE": str(self._cdk.node),
            "CDK_HOME": str(self._home),
            "CDK_DISABLE_VERSION_CHECK": "true",
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "CDK_VALIDATION": "false",  # it takes seconds and only warns; the deployment itself tells more
            "NO_COLOR": "1",
            PASSES: "1",  # a build's progress goes through our output
            "PYTHONUNBUFFERED": "1",
        }

    def _environment_without_an_app(self) -> dict[str, str]:
        """Return an environment in which Node keeps what it compiles, which takes a sixth of the CLI's start.

        Not under an app: jsii unpacks itself to another folder each time, and nothing of it would be found again.
        """
        return {"NODE_COMPILE_CACHE": str(cache_root() / "node")} | self.environment()

    def _run(self, arguments: Sequence[str], cwd: Path, on_line: Callable[[str], None]) -> int:
        command = [*self._cdk.command, *arguments, "--no-notices", "--ci"]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(_KILL_WITH_PARENT), *command],
            cwd=cwd,
            env=self._environment_without_an_app() if cwd == self._nowhere() else self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        done = threading.Event()
        watcher = threading.Thread(target=self._end_with_the_cloud, args=(process, done), daemon=True)
        watcher.start()
        try:
            for line in process.stdout:  # type: ignore[union-attr]
                on_line(line.rstrip())
            status = process.wait()
        finally:
            done.set()
            watcher.join()
            # Interrupted, we take the app and its model build along.
            _kill(process)
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
            process.stdout.close()  # type: ignore[union-attr]
        if status:
            self._explain()
        return status

    def _explain(self) -> None:
        """Raise if the CLI failed because a part of the embedded AWS has ended, which is the better reason."""
        deadline = time.monotonic() + _NOTICE_SECONDS
        self._check()
        while not self._listens() and time.monotonic() < deadline:
            time.sleep(0.05)
            self._check()

    def _listens(self) -> bool:
        address = urlsplit(self._endpoint)
        try:
            socket.create_connection((str(address.hostname), address.port or 80), timeout=1).close()
        except OSError:
            return False
        return True

    def _end_with_the_cloud(self, process: subprocess.Popen[str], done: threading.Event) -> None:
        """Kill the CLI as soon as a part of the embedded AWS has ended: it would try for long to reach it."""
        while not done.wait(_LOOK_SECONDS):
            try:
                self._check()
            except LocalError:
                _kill(process)
                return


def require_app(folder: Path, app: str | None = None) -> None:
    """Refuse a folder that does not say how its app runs, unless the app is given.

    Parameters
    ----------
    folder
        Folder of the app.
    app
        The app, by default the one in ``cdk.json``.

    Raises
    ------
    LocalError
        If it is neither given nor in ``cdk.json``.
    """
    if app is None and not (folder / "cdk.json").is_file():
        raise LocalError(
            f"{folder} must have a cdk.json, got none; go to the folder of the app, or give its command with app/--app"
        )


def given_assembly(folder: Path, app: str | None = None) -> Path | None:
    """Return an app's cloud assembly if the app is one, instead of a command: both are what the CLI takes.

    Parameters
    ----------
    folder
        Folder of the app.
    app
        The app, by default the one in ``cdk.json``.
    """
    try:
        found = folder / (app or json.loads((folder / "cdk.json").read_text())["app"])
        return found.resolve() if (found / _MANIFEST).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):  # not a path, or the CLI says what is wrong
        return None


def environments(assembly: Path) -> set[aws.Env]:
    """Return the accounts and regions that a cloud assembly is for.

    Parameters
    ----------
    assembly
        The cloud assembly. Those of its stages count.
    """
    found: set[aws.Env] = set()
    for artifact in json.loads((assembly / _MANIFEST).read_text()).get("artifacts", {}).values():
        if artifact["type"] == "cdk:cloud-assembly":
            found |= environments(assembly / artifact["properties"]["directoryName"])
        elif artifact["type"] == "aws:cloudformation:stack":
            account, region = artifact["environment"].removeprefix("aws://").split("/")
            given = aws.Env()
            found.add(
                aws.Env(
                    given.account if account == "unknown-account" else account,
                    given.region if region == "unknown-region" else region,
                )
            )
    return found


def _looks_up(assembly: Path) -> bool:
    """Tell whether an app looked up something that its context does not have, its stages included."""
    try:
        return bool(json.loads((assembly / _MANIFEST).read_text()).get("missing"))
    except FileNotFoundError:  # the app failed before it wrote one
        return False


@contextlib.contextmanager
def _restored(file: Path) -> Iterator[None]:
    """Take back what is written into a file: in an app's repository, it would pass for an answer of AWS."""
    before = (file.read_bytes(), file.stat()) if file.is_file() else None
    try:
        yield
    finally:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            content, status = before
            file.write_bytes(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # nothing changed for those who watch it


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(lines: list[str]) -> str:
    """Return the app's own error message if its output has one, otherwise all that there is."""
    starts = [index for index, line in enumerate(lines) if _ERROR.match(line)]
    if not starts:
        return "\n" + "\n".join(lines).strip()
    message = [line for line in lines[starts[0] :] if not line.endswith("Subprocess exited with error 1")]
    return _ERROR.sub("", "\n".join(message).strip(), count=1)
