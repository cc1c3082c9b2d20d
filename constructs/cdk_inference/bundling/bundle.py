"""Lambda code assets without Docker: sources and the wheels they need in one zip, the same on every machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_cdk import Annotations, Stack
from aws_cdk import aws_lambda as lambda_

from cdk_inference.bundling.bytecode import BytecodeError, compile_packages, interpreter, settings, traces
from cdk_inference.bundling.trimming import chosen_files, needed_files
from cdk_inference.bundling.wheels import Requirements, installed_distributions, uv_version
from cdk_inference.bundling.zip_files import (
    UNPACKED_LIMIT,
    check_size,
    modules,
    origin,
    size_of,
    source_files,
    write_zip,
)
from cdk_inference.common.cache import cache_root, hash_file
from cdk_inference.common.contents import content_digest, is_settled
from cdk_inference.common.store import Store, touch
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from constructs import Construct

    from cdk_inference.common.platform import LambdaPlatform

# Raise this when the same inputs give another zip than before: it voids what is cached.
_FORMAT = 5
# Nothing tells of a download that is possible now, or of an interpreter in an unusual place: look again after a while.
_SEARCH_SECONDS = 3600
_RUNTIME, _OUTSIDE = "inference_runtime", ("edge", "serving")
_ZIP = "code.zip"
_RECORD = "bundle.json"


@dataclass(frozen=True)
class BundledCode:
    """A zip for a Lambda function.

    Parameters
    ----------
    zip_path
        The zip file, in the cache.
    asset_hash
        Hash over the names, modes and bytes of what it contains, 64 hexadecimal digits; CDK names the asset by a hash
        of this one.
    """

    zip_path: Path
    asset_hash: str

    def code(self) -> lambda_.Code:
        """Return the code for a CDK function."""
        return lambda_.Code.from_asset(str(self.zip_path), asset_hash=self.asset_hash)


@dataclass(frozen=True)
class WheelPart:
    """Single files of wheels, without what these require.

    Parameters
    ----------
    requirements
        A requirements file that pins the wheels.
    kept
        Patterns of the paths to keep, as those of `fnmatch`, whose ``*`` matches ``/`` too; each must match a file. The
        metadata is kept too: it says which version the files are of, and under which license.
    """

    requirements: Path
    kept: tuple[str, ...]


def lambda_source() -> Path:
    """Return the folder of requirements and Dockerfiles: in the package of a wheel, otherwise in the repository."""
    package = Path(__file__).parents[1]
    installed = package / "lambda_src"
    return installed if installed.is_dir() else package.parents[1] / "lambda_src"


def runtime_source() -> Path:
    """Return the folder of the package `inference_runtime`: next to ours in a wheel, otherwise in the repository.

    It is not looked up by an import, which could find another package of that name.
    """
    package = Path(__file__).parents[1]
    installed = package.parent / "inference_runtime"
    return installed if installed.is_dir() else package.parents[1] / "lambda_src" / "inference_runtime"


def runtime_files(*, outside: bool = False) -> dict[str, Path | bytes]:
    """Return the files of the package `inference_runtime` by their path in the zip.

    Parameters
    ----------
    outside
        With the parts that only run outside of AWS, on devices and as a server. Functions have none of them, so that
        they neither load them nor change with them.
    """
    files = source_files({_RUNTIME: runtime_source()})
    return files if outside else {name: file for name, file in files.items() if name.split("/")[1] not in _OUTSIDE}


def bundle(
    scope: Construct,
    *,
    name: str,
    requirements: Path | Sequence[str | Path],
    sources: Mapping[str, Path | bytes],
    platform: LambdaPlatform,
    excluded: Sequence[str] = (),
    parts: Sequence[WheelPart] = (),
) -> BundledCode:
    """Bundle sources and the wheels they need into one zip, with the bytecode of all modules.

    The zip is made once for each content, and found in the cache afterwards. Neither the clock, the umask, the folder
    nor modification times enter it. When the stack is not to be bundled (``aws:cdk:bundling-stacks``), a placeholder
    stands in.

    Parameters
    ----------
    scope
        Construct that the code is for. It gets a warning when a version of a distribution is left open; its stack gets
        one when there is no bytecode.
    name
        The purpose of the code, for messages.
    requirements
        A requirements file, or a list of requirement lines and requirements files.
    sources
        Files and folders, or the bytes of a file, by their path in the zip; ``"."`` puts a folder's content at the
        root.
    platform
        The platform that the function runs on.
    excluded
        Distributions that stay out although a requirement asks for them, because the function never imports them.
    parts
        Single files of other wheels.

    Returns
    -------
    BundledCode
        The zip and its hash.

    Raises
    ------
    PropError
        A requirement has no wheel for the platform, or the whole is larger than Lambda takes. A source is missing,
        overwrites another file, or hides a module of Python or of a requirement.
    """
    bundles = _bundles()
    if not Stack.of(scope).bundling_required:
        return _placeholder(bundles)

    wheels = _Wheels(
        Requirements(requirements, excluded=excluded),
        [(Requirements(part.requirements), tuple(part.kept)) for part in parts],
    )
    files = source_files(sources)
    for module in sorted(modules(files) & sys.stdlib_module_names):
        raise PropError(f"sources of {name} must not hide Python's own modules, got {module!r}; rename it")
    inputs = {
        "format": _FORMAT,
        "uv": uv_version(),
        "platform": platform.uv_platform,
        "python": platform.python,
        "wheels": wheels.digest(),
        "sources": content_digest(files),
    }
    compiled, plain = (bundles / _key({**inputs, "bytecode": bytecode}) for bytecode in (True, False))

    def make(folder: Path, compiler: str | None) -> dict[str, Any]:
        def contents(partial: Path) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
            return _contents(partial, wheels, files, platform, name=name, compiler=compiler)

        return _make(folder, contents, f"{name} for Python {platform.python} on {platform.architecture}")

    folder, made = compiled, _read(compiled)
    if made is None:
        folder, made = plain, _read(plain)
    if made is None or _is_searchable(made, platform.python):
        try:
            folder, made = compiled, make(compiled, interpreter(platform.python))
        except BytecodeError as error:
            folder, made = plain, make(plain, None)
            made |= {"lack": str(error), "searched": _hints(platform.python), "searched_at": time.time()}
            _write_record(plain, made)
    if unpinned := wheels.unpinned(made["distributions"]):
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:unpinned",
            f"the requirements of {name} leave versions open: pin them, so that every machine bundles the same ("
            + ", ".join(f"{distribution}=={version}" for distribution, version in unpinned.items())
            + ")",
        )
    if lack := made.get("lack"):
        Annotations.of(Stack.of(scope)).add_warning_v2(
            "cdk-inference:bytecode",
            f"every cold start compiles the modules that it imports, which takes most of the time of imports: {lack}",
        )
    return BundledCode(folder / _ZIP, made["asset_hash"])


def files_zip(scope: Construct, *, name: str, sources: Mapping[str, Path | bytes]) -> BundledCode:
    """Put files into a zip without anything else, for a layer.

    Parameters
    ----------
    scope
        Construct that the zip is for. When its stack is not to be bundled, a placeholder stands in.
    name
        The purpose of the zip, for messages.
    sources
        As those of `bundle`.

    Returns
    -------
    BundledCode
        The zip and its hash, which depend on the files alone.

    Raises
    ------
    PropError
        If a source is missing or overwrites another one, or the whole is larger than Lambda takes.
    """
    bundles = _bundles()
    if not Stack.of(scope).bundling_required:
        return _placeholder(bundles)
    files = source_files(sources)
    digest = content_digest(files)
    folder = bundles / _key({"format": _FORMAT, "files": digest})

    def contents(_: Path) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
        check_size(files, name)
        return files, {"asset_hash": digest}

    made = _read(folder) or _make(folder, contents, name)
    return BundledCode(folder / _ZIP, made["asset_hash"])


def _hints(python: str) -> dict[str, object]:
    return {"traces": traces(python), "settings": settings()}


def _is_searchable(made: Mapping[str, Any], python: str) -> bool:
    """Tell whether an interpreter may be found now for a bundle for which there was none."""
    if "searched" not in made:
        return False
    age = time.time() - made.get("searched_at", 0.0)
    return not 0 <= age < _SEARCH_SECONDS or bool(made["searched"] != _hints(python))


def _bundles() -> Path:
    folder = cache_root() / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(inputs: Mapping[str, object]) -> str:
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any] | None:
    """Return what is known of a cached bundle, if its zip still has the bytes that were written.

    As long as size and time of modification are those that were recorded, the bytes are not read.
    """
    path = folder / _ZIP
    try:
        made: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        state = path.stat()
        seen = [state.st_size, state.st_mtime_ns]
        if made.get("zip_state") != seen:  # not known yet, copied, or damaged
            if made["zip_sha256"] != hash_file(path):
                return None
            if is_settled(state):
                made["zip_state"] = seen
                with contextlib.suppress(OSError):  # a cache that cannot be written is read again next time
                    _write_record(folder, made)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    touch(folder)
    return made


def _write_record(folder: Path, made: Mapping[str, object]) -> None:
    written = folder / f"{_RECORD}.{os.getpid()}"
    written.write_text(json.dumps(made, indent=2), encoding="utf-8")
    written.replace(folder / _RECORD)


def _make(
    folder: Path,
    contents: Callable[[Path], tuple[Mapping[str, Path | bytes], dict[str, Any]]],
    what: str,
) -> dict[str, Any]:
    """Make a zip in a folder that appears at once, complete, unless another synth does.

    Parameters
    ----------
    folder
        Where the zip goes, with a record of it.
    contents
        Told a folder to work in, returns the files of the zip and what to record.
    what
        The thing that is made, for messages.
    """
    from filelock import FileLock  # noqa: PLC0415 # a warm synth makes nothing

    with FileLock(f"{folder}.lock"):
        if (made := _read(folder)) is not None:
            return made
        sys.stderr.write(f"bundling {what}\n")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run: we hold the lock
        complete = partial / "complete"
        complete.mkdir(parents=True)
        try:
            files, made = contents(partial)
            write_zip(complete / _ZIP, files, Store(cache_root() / "deflated"))
            made["zip_sha256"] = hash_file(complete / _ZIP)
            _write_record(complete, made)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            complete.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return made


@dataclass(frozen=True)
class _Wheels:
    """The wheels of a function: its requirements with their dependencies, and parts of single wheels."""

    requirements: Requirements
    parts: Sequence[tuple[Requirements, tuple[str, ...]]]

    def digest(self) -> str:
        parts = [[requirements.digest(), *kept] for requirements, kept in self.parts]
        return _key({"requirements": self.requirements.digest(), "parts": parts})

    def unpinned(self, installed: dict[str, str]) -> dict[str, str]:
        for requirements in (self.requirements, *(requirements for requirements, _ in self.parts)):
            installed = requirements.unpinned(installed)
        return installed

    def install(self, folder: Path, platform: LambdaPlatform, name: str) -> tuple[dict[str, Path], dict[str, str]]:
        """Return the files that are needed, by their path in the zip, and the version of each distribution."""
        everything = folder / "wheels"
        if self.requirements:
            self.requirements.install(everything, platform, name=name)
        files, installed = needed_files(everything), installed_distributions(everything)
        for number, (requirements, kept) in enumerate(self.parts):
            part = folder / f"part-{number}"
            requirements.install(part, platform, name=name, dependencies=False)
            others = installed_distributions(part)
            _check_versions(installed, others, name)
            chosen, missing = chosen_files(part, kept)
            if missing:
                raise PropError(
                    f"{', '.join(requirements.named)} must have the file {missing[0]!r} for {platform.uv_platform}, "
                    f"which {name} needs, got none; choose another engine or LambdaPlatform"
                )
            files.update(chosen)
            installed |= others
        return files, installed


def _contents(
    partial: Path,
    wheels: _Wheels,
    sources: Mapping[str, Path | bytes],
    platform: LambdaPlatform,
    *,
    name: str,
    compiler: str | None,
) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
    """Return the files of a function's zip, and what is to be known of them."""
    installed, distributions = wheels.install(partial, platform, name)
    if clash := sorted(installed.keys() & sources.keys()):
        raise PropError(
            f"sources of {name} must not overwrite files of its requirements, got {clash[0]!r} from "
            f"{origin(sources[clash[0]])}; rename it"
        )
    for module in sorted(modules(sources) & {path.split("/")[0].split(".")[0] for path in installed}):
        raise PropError(f"sources of {name} must not hide modules of its requirements, got {module!r}; rename it")
    files: dict[str, Path | bytes] = {**installed, **sources}
    check_size(files, name)
    facts: dict[str, Any] = {"distributions": distributions}
    compiled: dict[str, Path | bytes] = {}
    if compiler is not None:
        compiled = compile_packages(
            files,
            partial / "bytecode",
            python=platform.python,
            executable=compiler,
            store=Store(cache_root() / "bytecode"),
        )
        if (size := sum(map(size_of, [*files.values(), *compiled.values()]))) > UNPACKED_LIMIT:
            compiled = {}
            facts["lack"] = (
                f"with bytecode, {name} would be {size / 1e6:.0f} MB unpacked, and Lambda takes"
                f" {UNPACKED_LIMIT / 1e6:.0f} MB: remove requirements"
            )
    # Patch versions of Python write other bytecode for the same sources, which must not cause a deployment.
    facts["asset_hash"] = _key({"files": content_digest(files), "python": platform.python, "bytecode": bool(compiled)})
    return {**files, **compiled}, facts


def _placeholder(bundles: Path) -> BundledCode:
    """Return a zip that stands in for the code of a stack that is not to be bundled."""
    path = bundles / "placeholder.zip"
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=bundles)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("not-bundled.txt"), "this stack was not selected for bundling\n")
        Path(temporary).replace(path)
    return BundledCode(path, sha256(b"placeholder").hexdigest())


def _check_versions(installed: Mapping[str, str], others: Mapping[str, str], name: str) -> None:
    """Refuse two versions of a distribution: their files would lie in one folder."""
    for distribution, wanted in others.items():
        if (other := installed.get(distribution, wanted)) != wanted:
            raise PropError(
                f"requirements of {name} must include {distribution}=={wanted}, of which the runtime takes single "
                f"files, got {distribution}=={other}; require {distribution}=={wanted}"
            )
