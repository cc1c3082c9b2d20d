"""The embedded AWS as Python sees it: start it, deploy into it, put objects, wait for results, stop it."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cdk_inference.common.figures import size
from cdk_inference.local import aws
from cdk_inference.local.cdk import CdkCli, environments, given_assembly
from cdk_inference.local.emulator.emulator import Emulator
from cdk_inference.local.emulator.health import Health, answering
from cdk_inference.local.emulator.parts import Parts, log_events
from cdk_inference.local.emulator.pipes import PipeRunner
from cdk_inference.local.errors import LocalError, MissingContextError
from cdk_inference.local.failures import FailureFeed
from cdk_inference.local.live_code import LiveCode, deployed_functions
from cdk_inference.local.source_files import scan
from cdk_inference.local.stacks import BOOTSTRAP_STACK, DeployedOwners, Stack, deployed, matching
from cdk_inference.local.uploads import Outcome, Pipeline, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType

    from cdk_inference.local.emulator.pipe_role import Refusal
    from cdk_inference.local.failures import Failure
    from cdk_inference.local.source_files import FileState
    from cdk_inference.local.stacks import Resource

_TIMEOUT = 120.0
_DEPLOYED = "deployed.json"  # the files of the apps as they were deployed


def _context(context: Mapping[str, str] | None) -> dict[str, str]:
    """Return the context of a local synth: what differs from AWS is decided here and nowhere else."""
    return {
        "cdk-inference:platform": aws.host_platform(),
        "cdk-inference:accelerator": "cpu",  # what is made for a GPU runs on the CPU
        "cdk-inference:allow-destroy": "true",
        **(context or {}),
    }


def _deployer(assembly: Path) -> aws.Env:
    """Return whose root deploys an assembly: that of its account, or the default if it is for several."""
    accounts = {env.account for env in environments(assembly)}
    return aws.Env(accounts.pop()) if len(accounts) == 1 else aws.Env()


def _by_name(pipelines: Iterable[Pipeline]) -> dict[str, Pipeline]:
    """Return pipelines by name; those with the same name, by name, account and region."""
    found = list(pipelines)
    often = Counter(each.name for each in found)
    return {each.name if often[each.name] == 1 else f"{each.name}@{'/'.join(each.env)}": each for each in found}


def _asset_bytes(assembly: Path) -> int:
    """Return the bytes of what an assembly ships besides its templates: its folder keeps what earlier ones shipped."""
    files = {
        (listing.parent / file["source"]["path"]).resolve()
        for listing in assembly.rglob("*.assets.json")
        for file in json.loads(listing.read_text()).get("files", {}).values()
        if "path" in file["source"]
    }
    return sum(file.stat().st_size for file in files if file.is_file() and not file.name.endswith(".template.json"))


class Cloud:
    """A running embedded AWS.

    Parameters
    ----------
    endpoint
        Its URL.
    folder
        Folder for the cloud assembly and for what the CDK CLI remembers.
    check
        Raises `LocalError` once a part of the embedded AWS has ended. Default: it never raises.
    report
        Returns the last failure of some pipes since a moment in milliseconds since the epoch, if there is one. Default:
        it knows of none.
    retry_after
        Seconds until objects that failed are tried again. Default: as in AWS.
    """

    def __init__(
        self,
        endpoint: str,
        folder: Path,
        *,
        check: Callable[[], None] | None = None,
        report: Callable[[int, Collection[str]], str | None] | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.retry_after = retry_after
        self._folder = folder
        self._check = check
        self._report = report
        self._told: set[tuple[int, str]] = set()
        self._bootstrapping = threading.Lock()  # a deployment does so while it synthesizes
        self._known: tuple[object, list[Resource]] = (None, [])

    def check(self) -> None:
        """Raise if a part of the embedded AWS, such as a pipe, has ended unexpectedly.

        Whatever waits for the embedded AWS calls it, so that a part does not end unnoticed.

        Raises
        ------
        LocalError
            With the reason, and the place of the log.
        """
        if self._check is not None:
            self._check()

    @property
    def env(self) -> aws.Env:
        """Account and region of what is deployed; the defaults, unless all of it names the same others."""
        with answering(self.check):
            found = aws.environments(self.endpoint)
        return found[0] if len(found) == 1 else aws.Env()

    def client(self, service: str, *, account: str | None = None, region: str | None = None) -> Any:  # noqa: ANN401
        """Return a boto3 client with the rights of the account's root.

        Parameters
        ----------
        service
            Name that boto3 gives the service, such as ``"s3"``.
        account, region
            Default: those of what is deployed, if it is all in one place; otherwise 000000000000 and us-east-1.
        """
        env = self.env
        return aws.client(self.endpoint, service, aws.Env(account or env.account, region or env.region))

    def environment(self) -> dict[str, str]:
        """Return the environment in which other programs reach this cloud, the CDK CLI's own included."""
        return self._cdk(None, self.env).environment()

    def bootstrapped(self, env: aws.Env = aws.DEFAULT_ENV) -> bool:
        """Tell whether the bootstrap stack is there.

        Parameters
        ----------
        env
            Account and region.
        """
        with answering(self.check):
            pages = aws.client(self.endpoint, "cloudformation", env).get_paginator("describe_stacks").paginate()
            return any(stack["StackName"] == BOOTSTRAP_STACK for page in pages for stack in page["Stacks"])

    def bootstrap(self, env: aws.Env = aws.DEFAULT_ENV, *, trusted: str | None = None) -> None:
        """Create CDK's bootstrap stack, if it is not there.

        Parameters
        ----------
        env
            Account and region.
        trusted
            Another account that may deploy.
        """
        with self._bootstrapping:
            if not self.bootstrapped(env):
                self._cdk(None, env).bootstrap(trusted=trusted if trusted != env.account else None)

    def _bootstrap_all(self, assembly: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        """Bootstrap the accounts and regions of an assembly, whose deployer they trust."""
        for env in sorted(environments(assembly)):
            if not self.bootstrapped(env):
                tell(f"bootstrapping {env.account}/{env.region}")
                self.bootstrap(env, trusted=_deployer(assembly).account)

    def synth(
        self,
        folder: str | Path = ".",
        *,
        app: str | None = None,
        context: Mapping[str, str] | None = None,
        output: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Path:
        """Synthesize an app for this cloud. The app's own ``cdk.out`` and ``cdk.context.json`` stay as they are.

        This cloud answers lookups, such as those of availability zones, unless ``cdk.context.json`` does.

        Parameters
        ----------
        folder
            Folder of the app.
        app
            Command that runs it, by default the one in ``cdk.json``. Or a cloud assembly, the folder that
            ``cdk synth`` made: it is taken as it is.
        context
            More context values.
        output
            Folder for the cloud assembly.
        on_line
            Called with each line of the CLI's output.

        Returns
        -------
        Path
            The cloud assembly.

        Raises
        ------
        LocalError
            If the app or the CLI fails, or context is given for a cloud assembly.
        """
        folder = Path(folder).resolve()
        if given := given_assembly(folder, app):
            if context:
                raise LocalError(
                    f"context must be left out for a cloud assembly, got {', '.join(context)}; synthesize it with that"
                )
            return given
        output, context = output or self._folder / "cdk.out", _context(context)
        try:
            return self._cdk(on_line).synth(folder=folder, output=output, app=app, context=context)
        except MissingContextError as missing:
            self._bootstrap_all(missing.assembly)
            cli = self._cdk(on_line, _deployer(missing.assembly))
            return cli.synth(folder=folder, output=output, app=app, context=context, lookups=True)

    def deploy(
        self,
        folder: str | Path = ".",
        *,
        app: str | None = None,
        context: Mapping[str, str] | None = None,
        stacks: Sequence[str] = (),
        on_line: Callable[[str], None] | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Synthesize and deploy an app with the real CDK CLI.

        Afterwards, no function has code that `Watch` has put live.

        Parameters
        ----------
        folder
            Folder of the app.
        app
            Command that runs it, or a cloud assembly, as for ``synth``.
        context
            More context values.
        stacks
            Names or patterns, by default all stacks, those of stages included.
        on_line
            Called with each line of the CLI's output.
        on_step
            Called with what it begins to do.

        Returns
        -------
        list of str
            Names of the stacks that are deployed now.

        Raises
        ------
        LocalError
            If it fails, with the end of the CLI's output.
        """
        tell = on_step or (lambda _: None)
        files = scan(Path(folder).resolve())
        with ThreadPoolExecutor(1) as side:  # neither needs the other
            bootstrap = side.submit(self.bootstrap)
            if given_assembly(Path(folder).resolve(), app) is None:
                tell("synthesizing the app")
            assembly = self.synth(folder, app=app, context=context, on_line=on_line)
            if not bootstrap.done():
                tell("bootstrapping the embedded AWS")
            bootstrap.result()
        self._bootstrap_all(assembly, tell)
        tell(f"deploying {size(_asset_bytes(assembly))} of assets")
        self._cdk(on_line, _deployer(assembly)).deploy(assembly, stacks)
        with answering(self.check):
            LiveCode(self.endpoint).restore(deployed_functions(self.resources()))
        if not stacks:
            self._remember(Path(folder).resolve(), files)
        return self.stacks()

    def deployed_files(self, folder: str | Path = ".") -> dict[str, FileState] | None:
        """Return the files of an app as they were when all of it was last deployed, None if it never was.

        Parameters
        ----------
        folder
            Folder of the app.
        """
        found = self._deployed_files().get(str(Path(folder).resolve()))
        return None if found is None else {path: (at, size) for path, (at, size) in found.items()}

    def source_of(self, module: str) -> str | None:
        """Return the path in its app's folder of a file that is in a package, None unless there is one such file.

        Parameters
        ----------
        module
            The name of the file in the package.
        """
        deployed = self._deployed_files().items()
        found = {path for app, files in deployed for path in files if f"{app}/{path}".endswith(f"/{module}")}
        return found.pop() if len(found) == 1 else None

    def _deployed_files(self) -> dict[str, dict[str, list[int]]]:
        try:
            return dict(json.loads((self._folder / _DEPLOYED).read_text()))
        except (OSError, ValueError):
            return {}

    def _remember(self, folder: Path, files: Mapping[str, FileState]) -> None:
        written = self._folder / f"{_DEPLOYED}.part"
        written.write_text(json.dumps({**self._deployed_files(), str(folder): files}))
        written.replace(self._folder / _DEPLOYED)

    def diff(
        self,
        folder: str | Path = ".",
        *,
        app: str | None = None,
        context: Mapping[str, str] | None = None,
        stacks: Sequence[str] = (),
    ) -> str:
        """Compare an app with what is deployed.

        Parameters
        ----------
        folder, app, context, stacks
            As for ``deploy``.

        Returns
        -------
        str
            The differences as ``cdk diff`` prints them, empty if there are none.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as output:
            assembly = self.synth(folder, app=app, context=context, output=Path(output) / "cdk.out")
            return self._cdk(None, _deployer(assembly)).diff(assembly, stacks)

    def stacks(self) -> list[str]:
        """Return the names of the deployed stacks, the bootstrap stack excepted."""
        return sorted({stack.name for stack in self._stacks()})

    def stack(self, name: str, *, account: str | None = None, region: str | None = None) -> Stack:
        """Return a deployed stack.

        Parameters
        ----------
        name
            Its name.
        account, region
            Where it is, if there are several of that name.

        Raises
        ------
        LocalError
            If there is none, or more than one.
        """
        named = [stack for stack in self._stacks() if stack.name == name]
        found = [s for s in named if (account or s.env.account, region or s.env.region) == s.env]
        if len(found) > 1:
            places = ", ".join("/".join(stack.env) for stack in found)
            raise LocalError(f"stack {name!r} must be in one place, got {places}; choose one with account and region")
        if not found:
            raise LocalError(f"stack {name!r} must be deployed in the embedded AWS; deploy it first")
        return found[0]

    def _stacks(self) -> list[Stack]:
        with answering(self.check):
            return [
                Stack(cloudformation, name, env)
                for env in aws.environments(self.endpoint)
                for cloudformation in [aws.client(self.endpoint, "cloudformation", env)]
                for name in sorted(deployed(cloudformation))
            ]

    def resources(self, **criteria: str) -> list[Resource]:
        """Return resources of all deployed stacks, which are read again only if a stack has changed.

        Parameters
        ----------
        **criteria
            ``role``, ``type`` or ``pipeline``, as for ``Stack.resources``.
        """
        with answering(self.check):
            marks = aws.call(self.endpoint, aws.ENVIRONMENTS)["marks"]  # first, so that a later change shows
            known, found = self._known
            if marks != known:
                found = [resource for stack in self._stacks() for resource in stack.resources()]
                self._known = marks, found
        return matching(found, **criteria)

    def pipelines(self) -> dict[str, Pipeline]:
        """Return the deployed pipelines by name; of those with the same name, by name, account and region."""
        facts: dict[tuple[str, aws.Env], dict[str, Any]] = {}
        resources = self.resources()
        owners = DeployedOwners(resources)
        # The trigger of many items has another one within, whose facts those of the outer one replace.
        for resource in sorted(resources, key=lambda each: len(owners.way(each)), reverse=True):
            if name := owners.pipeline(resource):
                known = facts.setdefault((name, resource.env), {"parts": Parts(env=resource.env)})
                known |= resource.metadata
                known["parts"].add(resource)
                if resource.metadata["role"] == "dead-letter-queue":
                    known["dead_letter_queue"] = resource.physical_id
        return _by_name(self._pipeline(name, known) for (name, _), known in facts.items() if known.get("table"))

    def text_streams(self) -> dict[str, Pipeline]:
        """Return the deployed functions that stream texts by name, as pipelines without an inbox and without rows."""
        found = [each for each in self.resources() if "text_stream" in each.metadata]
        return _by_name(
            self._pipeline(
                str(each.metadata["text_stream"]),
                {"parts": Parts(functions={each.physical_id: str(each.metadata["stage"])}, env=each.env)},
            )
            for each in found
        )

    def _pipeline(self, name: str, known: Mapping[str, Any]) -> Pipeline:
        # A name from another stack is a reference that only CloudFormation knows.
        named = {key: value for key in ("bucket", "source") if isinstance(value := known.get(key), str)}
        source, parts = named.get("source"), known["parts"]
        if source is not None and source.startswith("sqs:") and parts.queue is None:
            parts.queue = source.removeprefix("sqs:")  # a queue of the user's own
        return Pipeline(
            self.endpoint,
            name,
            inbox=named.get("bucket"),
            prefix=known.get("prefix") or "",
            source=source,
            table=known.get("table"),
            dead_letter_queue=known.get("dead_letter_queue"),
            parts=parts,
            check=self.check,
            report=self._report,
            told=self._told,
        )

    def pipeline(self, name: str | None = None) -> Pipeline:
        """Return a deployed pipeline.

        Parameters
        ----------
        name
            Its name; may be left out if there is only one, or only one with an inbox.

        Raises
        ------
        LocalError
            If there is none of that name, or more than one to choose from.
        """
        found = self.pipelines()
        if not found:
            raise LocalError("a pipeline must be deployed in the embedded AWS, got none; deploy an app first")
        names = ", ".join(sorted(found))
        if name is None:
            found = {known: each for known, each in found.items() if each.inbox is not None} or found
        if name is None and len(found) > 1:
            raise LocalError(f"pipeline must be one of {names}, got none; choose one")
        if name is not None and name not in found:
            raise LocalError(f"pipeline must be one of {names}, got {name!r}")
        return found[name] if name is not None else next(iter(found.values()))

    def put(
        self, *files: str | Path, key: str | None = None, prefix: str | None = None, pipeline: str | None = None
    ) -> list[Upload]:
        """Upload files to the inbox of a pipeline.

        Parameters
        ----------
        *files
            The files.
        key
            Key of the object, if there is one file.
        prefix
            The beginning of the keys, by default the pipeline's prefix. File names follow.
        pipeline
            Name of the pipeline, if there are several.

        Returns
        -------
        list of Upload
            To wait for.

        Raises
        ------
        LocalError
            If a file does not exist, or one key is to name several files.
        """
        paths = [Path(file) for file in files]
        for path in paths:
            if not path.is_file():
                raise LocalError(f"files must exist, got {path}")
        if key is not None and len(paths) != 1:
            raise LocalError(f"key must be left out, got {len(paths)} files; use a prefix")
        target = self.pipeline(pipeline)
        start = target.prefix if prefix is None else prefix
        return [target.put(key or f"{start}{path.name}", path.read_bytes()) for path in paths]

    def wait_for(
        self,
        uploads: Sequence[Upload],
        *,
        timeout: float = _TIMEOUT,
        pipeline: str | None = None,
        on_line: Callable[[str], None] | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> list[Outcome]:
        """Wait until each upload has a row in the results table or is in the dead-letter queue.

        Parameters
        ----------
        uploads
            The result of ``put``.
        timeout
            Seconds to wait.
        pipeline
            Name of the pipeline, if there are several.
        on_line
            Called with a line that says how many objects are done, and what the queue, the executions and the logs
            say of the others.
        on_failure
            Called with each error of user code in the pipeline as soon as it is logged.

        Returns
        -------
        list of Outcome
            One for each upload, in their order.

        Raises
        ------
        LocalError
            If some have neither in time. At once, if a part of the embedded AWS ends, or a function does not start.
        """
        since = round(min((upload.at.timestamp() for upload in uploads), default=time.time()) * 1000)
        target = self.pipeline(pipeline)
        feed = FailureFeed(self, since, pipeline=target.name)

        def look() -> None:
            if on_failure is not None:
                for failure in feed.new():
                    on_failure(failure)

        return target.wait_for(uploads, timeout, on_line=on_line, on_look=look)

    def results(self, *, pipeline: str | None = None) -> list[Outcome]:
        """Return what became of every object.

        Parameters
        ----------
        pipeline
            Name of the pipeline, if there are several.
        """
        return self.pipeline(pipeline).outcomes()

    def logs(self, *, since: int = 0) -> Iterable[tuple[int, str, str]]:
        """Return log events of the functions.

        Parameters
        ----------
        since
            Milliseconds since the epoch.

        Returns
        -------
        list of tuple
            Time in milliseconds since the epoch, function, and message; by time.
        """
        with answering(self.check):
            functions: dict[aws.Env, dict[str, str]] = {}
            for resource in self.resources(type="AWS::Lambda::Function"):
                label = str(resource.metadata.get("stage") or resource.logical_id)
                functions.setdefault(resource.env, {})[resource.physical_id] = label
            events = [log_events(self.endpoint, named, since=since, env=env) for env, named in functions.items()]
            return sorted((event for part in events for event in part), key=lambda event: event[0])

    def _cdk(self, on_line: Callable[[str], None] | None, env: aws.Env = aws.DEFAULT_ENV) -> CdkCli:
        return CdkCli(self.endpoint, home=self._folder / "cdk", on_line=on_line, check=self.check, env=env)


class LocalCloud(Cloud):
    """An embedded AWS for one block: it starts with the ``with`` block and ends with it, without a trace.

    >>> with LocalCloud() as cloud:                     # doctest: +SKIP
    ...     cloud.deploy("my-app")
    ...     uploads = cloud.put("photograph.jpg")
    ...     cloud.wait_for(uploads)

    A part that ends unexpectedly ends all of it. A call that waits for it raises `LocalError` at once. So does the end
    of the ``with`` block if nothing has raised it before.

    Parameters
    ----------
    pipes
        Whether the pipes of what is deployed run.
    retry_after
        Seconds until objects that failed are tried again; no retry of a workflow's state waits longer either. Default:
        as in AWS, until the visibility timeout of the pipeline's queue is over. That is longer than the workflow may
        take.
    kept
        Folder for a copy of the log of a part that ended unexpectedly. Default: the folder for temporary files.
    """

    def __init__(self, *, pipes: bool = True, retry_after: int | None = None, kept: Path | None = None) -> None:
        self._with_pipes = pipes
        self.retry_after = retry_after
        self._kept = kept
        self._emulator = Emulator(retry_after)
        self._health = Health()
        self._runner: PipeRunner | None = None
        self._closing = ExitStack()

    @property
    def emulator(self) -> Emulator:
        """The process behind it."""
        return self._emulator

    @property
    def refusals(self) -> list[Refusal]:
        """The failures of the pipes, oldest first."""
        return self._runner.refusals if self._runner else []

    @property
    def pipes(self) -> PipeRunner | None:
        """The runner of the pipes."""
        return self._runner

    def start(self) -> Self:
        """Start it.

        Raises
        ------
        LocalError
            If it does not come up.
        """
        with ExitStack() as closing:
            closing.callback(self._emulator.stop)
            self._emulator.start()
            self._health = Health(self._emulator.state / "pipes.log", kept=self._kept)
            closing.callback(self._health.close)
            super().__init__(
                self._emulator.endpoint,
                self._emulator.state,
                check=self._health.check,
                report=self._last_refusal,
                retry_after=self.retry_after,
            )
            threading.Thread(target=self._follow_emulator, name="emulator", daemon=True).start()
            if self._with_pipes:
                self._runner = PipeRunner(self.endpoint, health=self._health, retry_after=self.retry_after)
                self._runner.start()
                # Last in, first out: once the emulator is gone, the batches in flight end at once.
                closing.pop_all()
                closing.callback(self._health.close)
                closing.callback(self._runner.stop)
                closing.callback(self._emulator.stop)
                closing.callback(self._runner.ask_to_stop)
            self._closing = closing.pop_all()
        return self

    def stop(self) -> None:
        """Stop it, with every process that it started, and remove its folders."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self._health.unreported:
            self._health.check()

    def _last_refusal(self, since: int, pipes: Collection[str]) -> str | None:
        late = [refusal for refusal in self.refusals if refusal.at * 1000 >= since and refusal.pipe in pipes]
        return f"pipe {late[-1].pipe}: {late[-1].action} failed: {late[-1].message}" if late else None

    def _follow_emulator(self) -> None:
        """Notice when the emulator's process ends by itself."""
        log = self._emulator.log
        if (how := self._emulator.wait()) is not None:
            self._health.fail(f"the emulator of the embedded AWS {how}", log=log)
            if self._runner is not None:
                self._runner.ask_to_stop()
