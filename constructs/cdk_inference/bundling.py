"""Lambda code assets without Docker: sources and the wheels they need in one zip, the same on every machine."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aws_cdk import Annotations, Stack
from aws_cdk import aws_lambda as lambda_

from cdk_inference.errors import PropError
from cdk_inference.model.cache import cache_root, hash_file, is_clutter
from cdk_inference.wheels import Requirements, installed_distributions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from constructs import Construct

    from cdk_inference.platform import LambdaPlatform

# Raise this when the same inputs give another zip than before: it voids what is cached.
_FORMAT = 2
_UNPACKED_LIMIT = 262_144_000  # bytes, AWS's "250 MB" for a zip function
# Which version it is, and its license.
_METADATA = ("*.dist-info/METADATA", "*.dist-info/WHEEL", "*.dist-info/licenses/*")
# Written by the installer, different on each machine or run.
_INSTALLER_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})


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
        Patterns of the paths to keep, as those of `fnmatch`; each must match a file. The metadata is kept too: it
        says which version the files are of, and under which license.
    """

    requirements: Path
    kept: tuple[str, ...]


def lambda_source() -> Path:
    """Return the folder of what runs in AWS: in the package when installed from a wheel, else in the repository."""
    package = Path(__file__).parent
    installed = package / "lambda_src"
    return installed if installed.is_dir() else package.parents[1] / "lambda_src"


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
    """Bundle sources and the wheels they need into one zip.

    The zip is made once for each content, and found in the cache afterwards. Neither the clock, the umask, the folder
    nor modification times enter it. When the stack is not to be bundled (``aws:cdk:bundling-stacks``), a placeholder
    stands in.

    Parameters
    ----------
    scope
        Construct that the code is for; it gets a warning when a version of a distribution is left open.
    name
        What the code is for, in messages.
    requirements
        A requirements file, or a list of requirement lines and requirements files.
    sources
        Files and folders, or the bytes of a file, by their path in the zip; ``"."`` puts a folder's content at the
        root.
    platform
        What the function runs on.
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
        If a requirement has no wheel for the platform, a source is missing, overwrites another file or hides a module
        of Python or of a requirement, or the whole is larger than Lambda takes.
    """
    bundles = cache_root() / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    if not Stack.of(scope).bundling_required:
        return _placeholder(bundles)

    needed = Requirements(requirements, excluded=excluded)
    partial = [(Requirements(part.requirements), part.kept) for part in parts]
    files = source_files(sources)
    for module in sorted(_modules(files) & sys.stdlib_module_names):
        raise PropError(f"source {module!r} of {name} would hide Python's own module of that name: rename it")
    from importlib.metadata import version  # noqa: PLC0415 - imports of an app shall not wait for it

    inputs = {
        "format": _FORMAT,
        "uv": version("uv"),
        "platform": platform.uv_platform,
        "python": platform.python,
        "requirements": needed.digest(),
        "parts": [[requirement.digest(), *kept] for requirement, kept in partial],
        "sources": content_digest(files),
    }
    folder = bundles / sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    made = _read(folder)
    if made is None:
        from filelock import FileLock  # noqa: PLC0415 - brings asyncio; what is in the cache needs no lock

        with FileLock(f"{folder}.lock"):  # another synth may be at it
            made = _read(folder)
            if made is None:
                sys.stderr.write(f"bundling {name} for Python {platform.python} on {platform.architecture}\n")
                made = _make(folder, needed, partial, files, platform, name)
    if unpinned := needed.unpinned(made["distributions"]):
        Annotations.of(scope).add_warning_v2(
            "cdk-inference:unpinned",
            f"the requirements of {name} leave versions open: pin them, so that every machine bundles the same ("
            + ", ".join(f"{distribution}=={version}" for distribution, version in unpinned.items())
            + ")",
        )
    return BundledCode(folder / "code.zip", made["asset_hash"])


def _read(folder: Path) -> dict[str, Any] | None:
    """Return what is known of a cached bundle, if its zip still has the bytes that were written."""
    try:
        made: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        whole = made["zip_sha256"] == hash_file(folder / "code.zip")
    except (OSError, ValueError, KeyError):
        return None
    return made if whole else None


def _make(
    folder: Path,
    requirements: Requirements,
    parts: Sequence[tuple[Requirements, Sequence[str]]],
    sources: Mapping[str, Path | bytes],
    platform: LambdaPlatform,
    name: str,
) -> dict[str, Any]:
    """Bundle into a folder that appears at once, complete."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run: we hold the lock
    content = partial / "content"
    content.mkdir(parents=True)
    try:
        wheels = partial / "wheels"
        if requirements:
            requirements.install(wheels, platform, name=name)
        files: dict[str, Path | bytes] = {**_wheel_files(wheels)}
        distributions = installed_distributions(wheels)
        for number, (wanted, kept) in enumerate(parts):
            target = partial / f"part-{number}"
            wanted.install(target, platform, name=name, dependencies=False)
            _check_versions(distributions, installed_distributions(target), name)
            files.update(_part_files(target, kept))
            distributions |= installed_distributions(target)
        if clash := sorted(files.keys() & sources.keys()):
            raise PropError(
                f"{_origin(sources[clash[0]])} would overwrite {clash[0]!r} of a requirement of {name}: rename it"
            )
        for module in sorted(_modules(sources) & {path.split("/")[0].split(".")[0] for path in files}):
            raise PropError(
                f"source {module!r} of {name} would hide the module of that name of a requirement: rename it"
            )
        files.update(sources)
        _check_size(files, name)
        _write_zip(content / "code.zip", files)
        made = {
            "asset_hash": content_digest(files),
            "distributions": distributions,
            "zip_sha256": hash_file(content / "code.zip"),
        }
        (content / "bundle.json").write_text(json.dumps(made, indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        content.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _placeholder(bundles: Path) -> BundledCode:
    """Return a zip that stands in for the code of a stack that is not to be bundled."""
    path = bundles / "placeholder.zip"
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=bundles)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("not-bundled.txt"), "this stack was not selected for bundling\n")
        Path(temporary).replace(path)
    return BundledCode(path, sha256(b"placeholder").hexdigest())


def source_files(sources: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """Return the user's and our own files by their path in the zip; symbolic links are followed."""
    files: dict[str, Path | bytes] = {}
    for prefix, source in sources.items():
        path = PurePosixPath(prefix)
        if path.is_absolute() or ".." in path.parts:
            raise PropError(f"{prefix!r} is not a path within a zip: make it relative, without '..'")
        for name, file in [(str(path), source)] if isinstance(source, bytes) else _walk(path, source, ()):
            if name in files:
                raise PropError(
                    f"{_origin(files[name])} and {_origin(file)} would both become {name!r} in the zip: rename one"
                )
            files[name] = file
    return files


def _origin(content: Path | bytes) -> str:
    return "a generated file" if isinstance(content, bytes) else str(content)


def _modules(sources: Mapping[str, Path | bytes]) -> set[str]:
    """Return the modules that sources define at the root, where Python looks before anywhere else.

    A folder without ``__init__.py`` is not among them: modules that are elsewhere go before it.
    """
    paths = [PurePosixPath(name) for name in sources]
    files = {path.stem for path in paths if len(path.parts) == 1 and path.suffix == ".py"}
    return files | {path.parts[0] for path in paths if len(path.parts) == 2 and path.name == "__init__.py"}  # noqa: PLR2004


def _walk(name: PurePosixPath, path: Path, parents: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield str(name), path
    elif not path.is_dir():
        raise PropError(f"source {str(path)!r} does not exist: correct the path, or remove the broken link")
    elif (real := path.resolve()) in parents:
        raise PropError(f"source {str(path)!r} is a link to a folder around it: remove the link")
    else:
        for child in path.iterdir():
            if not is_clutter(child) and child.suffix != ".pyc":
                yield from _walk(name / child.name, child, (*parents, real))


def _wheel_files(folder: Path) -> dict[str, Path]:
    """Return what a function needs of the installed wheels, by the path in the zip."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix(): file for path, file in files.items() if _is_needed(path)}


def _is_needed(path: Path) -> bool:
    # Scripts start with the path of this machine's interpreter.
    if path.parts[0] in {"bin", ".lock"} or path.suffix == ".pyc":
        return False
    if path.parts[0].endswith(".dist-info"):
        return path.name not in _INSTALLER_FILES
    # Only the tests themselves: some packages import helpers from their "tests" folder.
    return not ("tests" in path.parts[1:-1] and (path.name.startswith("test_") or path.name == "conftest.py"))


def _part_files(folder: Path, kept: Sequence[str]) -> dict[str, Path]:
    """Return the files of installed wheels that match a pattern, and the metadata that names their version."""
    files = _wheel_files(folder)
    missing = [pattern for pattern in kept if not fnmatch.filter(files, pattern)]
    if missing:
        raise PropError(f"no file is like {missing[0]!r} in {installed_distributions(folder)}: correct the pattern")
    return {
        path: file
        for path, file in files.items()
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in (*_METADATA, *kept))
    }


def _check_versions(installed: Mapping[str, str], others: Mapping[str, str], name: str) -> None:
    """Refuse two versions of a distribution: their files would lie in one folder."""
    for distribution, wanted in others.items():
        if (other := installed.get(distribution, wanted)) != wanted:
            raise PropError(
                f"requirements of {name}: {distribution}=={other} beside {wanted}, of which the runtime takes single"
                f" files: require {distribution}=={wanted}"
            )


def _check_size(files: Mapping[str, Path | bytes], name: str) -> None:
    """Refuse what Lambda would refuse, while the largest parts can still be named."""
    sizes: Counter[str] = Counter()
    for path, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        sizes[PurePosixPath(path).parts[0]] += size
    if (total := sizes.total()) > _UNPACKED_LIMIT:
        largest = ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in sizes.most_common(5))
        raise PropError(
            f"the code of {name} is {total / 1e6:.0f} MB unpacked, and Lambda takes {_UNPACKED_LIMIT / 1e6:.0f} MB:"
            f" remove requirements; the largest parts are {largest}"
        )


def content_digest(files: Mapping[str, Path | bytes]) -> str:
    """Return a hash over the names, modes and bytes of files."""
    digest = sha256()
    for name, content in sorted(files.items(), key=itemgetter(0)):
        inner = sha256(content).hexdigest() if isinstance(content, bytes) else hash_file(content)
        digest.update(f"{name}\0{_mode(content):o}\0{inner}\n".encode())
    return digest.hexdigest()


def _write_zip(target: Path, files: Mapping[str, Path | bytes]) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(files.items(), key=itemgetter(0)):
            entry = zipfile.ZipInfo(name)  # dated 1980-01-01
            entry.create_system = 3  # Unix, so that the mode counts
            entry.external_attr = (stat.S_IFREG | _mode(content)) << 16
            # Level 5: onnxruntime and numpy take 60 % of the default's time and come out 1 % larger.
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=5)


def _mode(content: Path | bytes) -> int:
    """Return the mode in the zip, whatever the umask: Lambda runs as another user than the owner."""
    executable = isinstance(content, Path) and content.stat().st_mode & stat.S_IXUSR
    return 0o755 if executable else 0o644
