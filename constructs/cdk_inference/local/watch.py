"""Puts edited stage code live while a developer works, and deploys whatever else changes."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from zipfile import BadZipFile
from zlib import crc32

from botocore.exceptions import BotoCoreError, ClientError
from watchfiles import watch

from cdk_inference.errors import InferenceError
from cdk_inference.local import aws
from cdk_inference.local.emulator.health import answering
from cdk_inference.local.failures import own_traceback
from cdk_inference.local.live_code import LiveCode, NotStartedError, checksums, deployed_functions, with_modules
from cdk_inference.local.source_files import changed, folders, scan

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from cdk_inference.local.cloud import Cloud
    from cdk_inference.local.live_code import DeployedFunction, PreparedCode
    from cdk_inference.local.source_files import FileState

Kind: TypeAlias = Literal["watching", "live", "deploying", "deployed", "failed"]

_QUIET_MS = 50  # without another change, after which a burst is over
_BURST_MS = 500  # after which a burst is looked at even if it goes on
_LOOK_MS = 1000  # between two looks without any event: some file systems tell of none
_SETTLE_SECONDS = 0.2  # that an editor gets to finish a file
_SHOWN_FILES = 3
_AT_ONCE = 4
_MOST_ROUNDS = 3  # deployments in a row during which a file changes, before it is left alone


@dataclass(frozen=True)
class Change:
    """One thing that happened to a watched project.

    Parameters
    ----------
    kind
        ``"watching"``: the app is deployed, and edits go live from now on. ``"live"``: functions have new code.
        ``"deploying"`` and ``"deployed"``: a full deployment begins, and has ended. ``"failed"``: a change could not
        be brought in, and what was live before still is.
    files
        The files that changed, as paths in the project.
    functions
        The functions that have the new code, as users know them.
    seconds
        How long it took, from the moment that the change was noticed.
    message
        All of it in words: the reason of a deployment, or of a failure.
    """

    kind: Kind
    files: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    seconds: float = 0.0
    message: str = ""


class _BrokenFileError(Exception):
    """A file cannot go live as it is; the message says why."""


class Watch:
    """Watches a project, and brings what changes into an embedded AWS.

    A Python file that is in the package of a deployed function goes live at once: the functions get a package with the
    new file. Such files are found by content and name when the app is deployed, so that nothing but the packages
    tells. Anything else that changes makes a full deployment.

    Parameters
    ----------
    project
        Folder of the app.
    cloud
        The embedded AWS.
    app
        Command that runs the app, as for `Cloud.deploy`. Default: the one in ``cdk.json``.
    context
        More context values, as for `Cloud.deploy`.
    """

    def __init__(
        self, project: Path, cloud: Cloud, app: str | None = None, *, context: Mapping[str, str] | None = None
    ) -> None:
        self._project = project.resolve()
        self._cloud = cloud
        self._app = app
        self._context = context
        self._live_code = LiveCode(cloud.endpoint)
        self._seen: dict[str, FileState] = {}
        self._deployed: set[str] = set()  # the files that there were at the last deployment
        self._modules: dict[str, bytes] = {}  # as they are deployed or live, by path
        self._uses: dict[str, list[tuple[DeployedFunction, str]]] = {}  # the names of files in packages, by path
        self._replaced: dict[str, dict[str, bytes]] = {}  # what is not as it was deployed, by function
        self._checksums: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
        self._marks: object = None  # that tell one deployment from another
        self._pending: set[str] = set()  # what is neither live nor deployed
        self._written: dict[str, int] = {}  # during how many deployments in a row the content of a file changed
        self._undeployed = ""  # why there was a deployment that failed

    def run(
        self,
        stopping: threading.Event,
        on_change: Callable[[Change], None],
        *,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Deploy what is not deployed yet, then bring changes into the embedded AWS until told to stop.

        Parameters
        ----------
        stopping
            Set to stop.
        on_change
            Called with each thing that happens, in this thread.
        on_line
            Called with each line of output of a deployment.

        Raises
        ------
        LocalError
            If a part of the embedded AWS has ended.
        """
        self._begin(on_change, on_line)
        for _ in self._wakes(stopping):
            self._cloud.check()
            files = scan(self._project)
            if new := changed(self._seen, files):
                began, self._seen = time.monotonic(), files
                self._pending |= new
                self._bring(began, on_change, on_line)

    def _begin(self, tell: Callable[[Change], None], on_line: Callable[[str], None] | None) -> None:
        began, files = time.monotonic(), scan(self._project)
        before, self._seen = self._cloud.deployed_files(self._project), files
        if before is None:
            self._undeployed = "the app is not deployed yet"
        elif new := changed(before, files):
            self._undeployed = f"{_listed(new)} changed since the last deployment"
        if self._undeployed:
            self._bring(began, tell, on_line)
        else:
            self._deployed, self._modules = set(files), self._read_modules(files)
            self._find_uses()
        if not self._undeployed:
            functions = {function.label for uses in self._uses.values() for function, _ in uses}
            found = f"{len(self._uses)} files of {len(functions)} functions go live when they are saved"
            message = f"{found}; any other change is deployed"
            tell(Change("watching", tuple(sorted(self._uses)), tuple(sorted(functions)), message=message))

    def _wakes(self, stopping: threading.Event) -> Iterator[None]:
        """Yield whenever files may have changed."""
        while not stopping.is_set():
            watched = set(folders(self._project))
            try:
                for _ in watch(
                    *watched,
                    watch_filter=None,
                    recursive=False,  # a recursive one would watch virtual environments too
                    debounce=_BURST_MS,
                    step=_QUIET_MS,
                    stop_event=stopping,
                    rust_timeout=_LOOK_MS,
                    yield_on_timeout=True,
                    ignore_permission_denied=True,
                ):
                    yield
                    if set(folders(self._project)) != watched:
                        break
            except FileNotFoundError:  # a folder is gone since
                continue
            except (OSError, RuntimeError):  # no more folders, or no more programs, may be watched on this machine
                while not stopping.wait(_LOOK_MS / 1000):
                    yield

    def _bring(self, began: float, tell: Callable[[Change], None], on_line: Callable[[str], None] | None) -> None:
        """Bring what is pending into the embedded AWS, in one way or the other."""
        try:
            if not self._undeployed and self._reason_to_deploy():
                # An editor that replaces a file takes it away for a moment, and a tool that writes files may go on.
                time.sleep(_SETTLE_SECONDS)
                files = scan(self._project)
                self._pending |= changed(self._seen, files)
                self._seen = files
                self._undeployed = self._reason_to_deploy()
            if self._undeployed:
                self._deploy(tell, on_line)
            elif self._pending:
                self._go_live(began, tell)
        except (_BrokenFileError, InferenceError, ClientError, BotoCoreError, BadZipFile, OSError) as error:
            self._cloud.check()
            seconds = time.monotonic() - began
            tell(Change("failed", tuple(sorted(self._pending)), seconds=seconds, message=str(error)))

    def _reason_to_deploy(self) -> str:
        """Return why what is pending cannot go live by itself, if it cannot."""
        if self._marks != self._deployment():  # somebody else has deployed
            self._replaced.clear()
            self._find_uses()
        # Only the time of some has changed, and others came and went.
        self._pending -= {path for path in self._pending if self._is_known(path)}
        others = {path for path in self._pending if path not in self._uses or path not in self._seen}
        return f"{_listed(others)} changed, which is not only code of deployed stages" if others else ""

    def _is_known(self, path: str) -> bool:
        if path not in self._seen:
            return path not in self._deployed
        return path in self._modules and self._read(path) == self._modules[path]

    def _deploy(self, tell: Callable[[Change], None], on_line: Callable[[str], None] | None) -> None:
        pending = tuple(sorted(self._pending))
        tell(Change("deploying", pending, message=self._undeployed))
        began, files = time.monotonic(), scan(self._project)
        modules, contents = self._read_modules(files), {path: self._digest(path) for path in self._written}
        self._cloud.deploy(self._project, app=self._app, context=self._context, on_line=on_line)
        self._undeployed = ""
        self._pending.clear()
        self._replaced.clear()
        self._deployed, self._modules = set(files), modules
        # Changes made meanwhile are looked at next. But an app that writes files at each synth would not rest.
        after = scan(self._project)
        self._written = {
            path: 0 if path in contents and contents[path] == self._digest(path) else self._written.get(path, 0) + 1
            for path in changed(files, after)
        }
        restless = sorted(path for path, rounds in self._written.items() if rounds >= _MOST_ROUNDS)
        alone = {*restless, *(path for path, rounds in self._written.items() if not rounds)}
        self._seen = {path: state for path, state in files.items() if path not in alone}
        self._seen |= {path: state for path, state in after.items() if path in alone}
        self._find_uses()
        seconds = time.monotonic() - began
        tell(Change("deployed", pending, seconds=seconds, message="deployed"))
        if restless:
            rounds = f"{_listed(restless)} changed during {_MOST_ROUNDS} deployments in a row"
            message = f"{rounds}, so the last change is not deployed; save once more to deploy it"
            tell(Change("failed", tuple(restless), seconds=seconds, message=message))

    def _go_live(self, began: float, tell: Callable[[Change], None]) -> None:
        """Give functions the files that are pending, all or none."""
        paths = sorted(self._pending)
        texts = {path: self._whole(path) for path in paths}
        new: dict[DeployedFunction, dict[str, bytes]] = {}
        for path in paths:
            for function, name in self._uses[path]:
                new.setdefault(function, {})[name] = texts[path]
        with answering(self._cloud.check), ThreadPoolExecutor(_AT_ONCE) as pool:
            begun = [pool.submit(self._prepare, function, modules) for function, modules in new.items()]
            try:
                ready = [each.result() for each in begun]
            except BaseException:
                for each in begun:
                    if each.exception() is None:
                        self._live_code.undo(each.result())
                raise
            for code in ready:
                self._live_code.go_live(code)
        for function, modules in new.items():
            self._replaced.setdefault(function.name, {}).update(modules)
        self._modules |= texts
        self._pending.clear()
        labels = tuple(sorted(function.label for function in new))
        message = f"{', '.join(paths)} live in {', '.join(labels)}"
        tell(Change("live", tuple(paths), labels, time.monotonic() - began, message))

    def _prepare(self, function: DeployedFunction, modules: Mapping[str, bytes]) -> PreparedCode:
        deployed = self._live_code.package(function)
        before = self._replaced.get(function.name, {})
        package = with_modules(deployed, {**before, **modules})
        try:
            return self._live_code.prepare(function, package, with_modules(deployed, before))
        except NotStartedError as error:
            paths = {name: path for path, uses in self._uses.items() for user, name in uses if user is function}
            own = own_traceback(error.traceback, lambda name: paths.get(name, name))
            raise NotStartedError(error.function, own) from error

    def _whole(self, path: str) -> bytes:
        """Return the text of a file, once an editor has written all of it.

        Raises
        ------
        _BrokenFileError
            If it is empty, or is not Python.
        """
        text = self._read(path)
        if _problem(path, text):
            time.sleep(_SETTLE_SECONDS)
            text = self._read(path)
        if text is None or (problem := _problem(path, text)):
            raise _BrokenFileError(f"{path} is gone" if text is None else problem)
        return text

    def _find_uses(self) -> None:
        """Find the files of the project in the packages of functions: same name, same content."""
        with answering(self._cloud.check):
            self._marks = self._deployment()
            functions = deployed_functions(self._cloud.resources())
            for function in functions:
                if function.package not in self._checksums:
                    self._checksums[function.package] = self._checksums_of(function)
        self._uses = {}
        found = {package: self._matches(names) for package, names in self._checksums.items()}
        for function in functions:
            for path, name in found[function.package].items():
                self._uses.setdefault(path, []).append((function, name))

    def _checksums_of(self, function: DeployedFunction) -> dict[str, tuple[int, int]]:
        try:
            return checksums(self._live_code.package(function))
        except (ClientError, BadZipFile):  # the user's own bucket, which may have lost it
            return {}

    def _matches(self, names: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """Return the names of a package that are files of the project, by their paths."""
        candidates: dict[str, list[str]] = {}
        for path in self._modules:
            candidates.setdefault(path.rpartition("/")[2], []).append(path)
        same: dict[str, list[str]] = {}
        for name, checksum in names.items():
            for path in candidates.get(name.rpartition("/")[2], []):
                text = self._modules[path]
                if f"{self._project.as_posix()}/{path}".endswith(f"/{name}") and checksum == (crc32(text), len(text)):
                    same.setdefault(name, []).append(path)
        # If two files are the same, the one counts that lies where the others of the package do.
        folders = Counter(paths[0].removesuffix(name) for name, paths in same.items() if len(paths) == 1)
        matches = {}
        for name, paths in same.items():
            ranked = sorted(paths, key=lambda path: -folders[path.removesuffix(name)])
            places = [folders[path.removesuffix(name)] for path in ranked[:2]]
            if len(ranked) == 1 or places[0] > places[1]:
                matches[ranked[0]] = name
        return matches

    def _read_modules(self, files: Iterable[str]) -> dict[str, bytes]:
        texts = ((path, self._read(path)) for path in files if path.endswith(".py"))
        return {path: text for path, text in texts if text is not None}

    def _read(self, path: str) -> bytes | None:
        try:
            return (self._project / path).read_bytes()
        except OSError:
            return None

    def _digest(self, path: str) -> bytes | None:
        try:
            with (self._project / path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return None

    def _deployment(self) -> object:
        return aws.call(self._cloud.endpoint, aws.ENVIRONMENTS)["marks"]


def _problem(path: str, text: bytes | None) -> str:
    """Return why a file cannot go live, if it cannot."""
    if text is None:
        return f"{path} is gone"
    if not text.strip():
        return f"{path} is empty"
    try:
        compile(text, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f"\n    {error.text.strip()}" if error.text else ""
        return f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}{line}"
    except (ValueError, RecursionError, MemoryError) as error:  # such as null bytes
        return f"{path}: {type(error).__name__}: {error}"
    return ""


def _listed(paths: Iterable[str]) -> str:
    ordered = sorted(paths)
    more = len(ordered) - _SHOWN_FILES
    return ", ".join(ordered[:_SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")
