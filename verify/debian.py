"""Packages of a Debian suite newer than this machine's, unpacked into the cache and not installed.

apt does the work, with a separate state: it takes the mirror and the keys from the machine's configuration, verifies
the signatures, and resolves dependencies. Nothing on the system changes, and no rights are needed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cdk_inference.common.cache import cache_root, make_cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUITES = ("testing", "unstable")
"""Suites that are asked, in this order; the second gets new versions days earlier."""

_TOOLS = ("apt-get", "apt-config", "apt-cache", "dpkg", "dpkg-deb")
_RECORD = "packages.json"
# Python 3.11.4 brought the filter. The archive signed what is unpacked.
_FILTER: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
# apt waits for two minutes by default, several times.
_PATIENCE = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")


class UnavailableError(Exception):
    """Something cannot be had on this machine; the message says why in one sentence."""


@dataclass(frozen=True)
class Source:
    """An archive of packages in the configuration of apt.

    Parameters
    ----------
    uri
        Where it is.
    suites
        Suites that the machine uses.
    components
        Components that the machine uses.
    signed_by
        Keys that sign it, as a deb822 field: paths, fingerprints, or a key itself. Default: all keys that apt trusts.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None

    def stanza(self, suite: str) -> str:
        """Return the deb822 stanza of another suite of the archive."""
        uri = re.sub(r"^file:", "copy:", self.uri)  # apt would leave the packages of a local archive where they are
        lines = ["Types: deb", f"URIs: {uri}", f"Suites: {suite}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Package:
    """A package to unpack.

    Parameters
    ----------
    name
        Its name.
    at_least
        Oldest version that will do, as Debian writes versions. Default: any.
    """

    name: str
    at_least: str | None = None


def unpacked(
    name: str, packages: Sequence[Package], *, architecture: str | None = None, members: Sequence[str] = ("*",)
) -> Path:
    """Return a folder with packages and all that they depend on, from the cache if it is there.

    Parameters
    ----------
    name
        The name in the cache and in messages.
    packages
        The packages to install.
    architecture
        Debian's name of the architecture, such as ``"arm64"``. Default: this machine's.
    members
        Patterns of the paths to unpack, as those of `fnmatch`, such as ``"usr/bin/*"``. Default: everything.

    Returns
    -------
    Path
        The root of what was unpacked.

    Raises
    ------
    UnavailableError
        If this is not a system with apt, its mirror does not answer, or it has only older versions.
    """
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise UnavailableError(f"{name} comes as a Debian package, and this system has no {missing[0]}")
    architecture = architecture or _run(["dpkg", "--print-architecture"]).strip()
    make_cache(cache_root())
    folder = cache_root() / "emulators" / f"{name}-{architecture}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_complete(folder, packages):
            sys.stderr.write(f"downloading {name} for {architecture} from this system's package mirror\n")
            _make(folder, packages, architecture, members)
    return folder / "root"


def sources() -> list[Source]:
    """Return the archives that apt uses on this machine, those of the system's own release first.

    Raises
    ------
    UnavailableError
        If apt has no such archive.
    """
    where = shlex.split(
        _run(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"])
    )
    paths = dict(word.split("=", 1) for word in where)
    found: list[Source] = []
    for path in [Path(paths["LIST"]), *sorted(Path(paths["PARTS"]).glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    # A source without main is not Debian's own archive; one that is for security only has no other suites.
    found = [source for source in found if "main" in source.components and not _is_security(source)]
    if not found:
        raise UnavailableError("apt on this system knows no archive with the component main")
    codename = _codename()
    found.sort(key=lambda source: codename not in source.suites)  # stable: otherwise the order of the files
    return list(dict.fromkeys(found))


def parse_deb822(text: str) -> list[Source]:
    """Return the enabled archives of binary packages in a file of deb822 stanzas (``*.sources``).

    See sources.list(5).
    """
    found = []
    for stanza in re.split(r"\n\n+", "\n".join(_without_comments(text))):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[key] = f"{fields.get(key, '')}\n{line}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "without", "off", "disable", "0"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        found += [
            Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by") or None,
            )
            for uri in fields.get("uris", "").split()
        ]
    return found


def parse_one_line(text: str) -> list[Source]:
    """Return the archives of binary packages in a file of the one-line style (``*.list``).

    See sources.list(5).
    """
    found = []
    for line in _without_comments(text):
        match = re.fullmatch(r"\s*deb\s+(?:\[\s*(?P<options>[^]]*)\]\s*)?(?P<rest>\S.*)", line)
        if match is None:
            continue
        uri, *words = match["rest"].partition("#")[0].split()
        if uri.startswith("cdrom:") or not words:
            continue
        options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
        keys = options.get("signed-by", "").replace(",", " ").strip()
        found.append(Source(uri, (words[0],), tuple(words[1:]), keys or None))
    return found


def _without_comments(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _is_security(source: Source) -> bool:
    return all("security" in suite for suite in source.suites)


def _codename() -> str:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?([\w.-]+)', text, re.MULTILINE)
    return match[1] if match else ""


def _is_complete(folder: Path, packages: Iterable[Package]) -> bool:
    """Tell whether a folder has all packages, as new as they must be."""
    try:
        versions = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError):
        return False
    return all(package.name in versions and _will_do(package, versions[package.name]) for package in packages)


def _will_do(package: Package, version: str) -> bool:
    if package.at_least is None:
        return True
    compare = ["dpkg", "--compare-versions", version, "ge", package.at_least]
    return subprocess.run(compare, check=False).returncode == 0


def _make(folder: Path, packages: Sequence[Package], architecture: str, members: Sequence[str]) -> None:
    reasons = []
    partial = folder.with_suffix(".partial")
    for source in sources():
        for suite in SUITES:
            shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run: we hold the lock
            partial.mkdir()
            try:
                with tempfile.TemporaryDirectory(prefix="cdk-inference-apt-") as state:
                    files = _Apt(Path(state), source, suite, architecture).download(packages)
                    versions = dict(_unpack(file, partial / "root", members) for file in files)
                (partial / _RECORD).write_text(json.dumps({"versions": versions}, indent=2), encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)  # an older one
                partial.replace(folder)
            except UnavailableError as error:
                reasons.append(f"{suite}: {error}")
            else:
                return
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    wanted = ", ".join(f"{package.name} {package.at_least or ''}".strip() for package in packages)
    raise UnavailableError(
        f"the package mirror of this system has no {wanted} for {architecture} ({'; '.join(reasons)})"
    )


class _Apt:
    """apt with lists, cache and state in a separate folder, and one suite of one archive as its only source."""

    def __init__(self, folder: Path, source: Source, suite: str, architecture: str) -> None:
        self._archives = folder / "cache" / "archives"
        empty, parts = folder / "empty", folder / "sources.list.d"
        for path in (folder / "lists" / "partial", self._archives / "partial", empty, parts):
            path.mkdir(parents=True)
        (folder / "status").touch()
        (parts / "suite.sources").write_text(source.stanza(suite), encoding="utf-8")
        settings = {
            "Dir::Etc::sourcelist": os.devnull,
            "Dir::Etc::sourceparts": parts,
            "Dir::Etc::preferences": os.devnull,
            "Dir::Etc::preferencesparts": empty,
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Cache::archives": self._archives,
            "Dir::Log": folder,
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "",  # another user could not write here
            "APT::Update::Error-Mode": "any",  # a mirror that does not answer is only a warning otherwise
            # Whatever the machine allows: without a valid signature, nothing is taken.
            "Acquire::AllowInsecureRepositories": "false",
            "APT::Get::AllowUnauthenticated": "false",
        }
        options = (f"{name}={value}" for name, value in settings.items())
        self._options = [part for option in options for part in ("-o", option)]
        # The list of architectures cannot be replaced on the command line, only emptied and filled.
        self._options += ["-o", "APT::Architectures=", "-o", f"APT::Architectures::={architecture}", *_PATIENCE]

    def download(self, packages: Sequence[Package]) -> list[Path]:
        """Return the files of packages and all that they depend on, whose hashes and signatures apt has verified.

        Raises
        ------
        UnavailableError
            If there are none, or they are too old.
        """
        self._run("apt-get", "--quiet", "update")
        for package in packages:
            version = self._candidate(package.name)
            if not _will_do(package, version):
                raise UnavailableError(f"{package.name} is {version}, which is older than {package.at_least}")
        names = [package.name for package in packages]
        self._run("apt-get", "--quiet", "--yes", "--no-install-recommends", "--download-only", "install", *names)
        return sorted(self._archives.glob("*.deb"))

    def _candidate(self, name: str) -> str:
        match = re.search(r"^Version: (\S+)", self._run("apt-cache", "show", "--no-all-versions", name), re.MULTILINE)
        if match is None:
            raise UnavailableError(f"there is no package {name}")
        return match[1]

    def _run(self, program: str, *arguments: str) -> str:
        return _run([program, *self._options, *arguments])


def _run(command: Sequence[str]) -> str:
    """Return what a program prints.

    Raises
    ------
    UnavailableError
        If it fails; the message is its last error.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    if done.returncode:
        lines = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
        reason = lines[0] if lines else done.stderr.strip().rpartition("\n")[2]
        raise UnavailableError(f"{command[0]} failed: {reason or f'exit code {done.returncode}'}")
    return done.stdout


def _unpack(file: Path, root: Path, members: Sequence[str]) -> tuple[str, str]:
    """Unpack chosen members of a package, and return its name and version."""
    root.mkdir(exist_ok=True)
    name, version = _run(["dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n", str(file)]).splitlines()
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            path = member.name.removeprefix("./")
            if path and any(fnmatch.fnmatchcase(path, pattern) for pattern in members):
                archive.extract(member, root, numeric_owner=True, **_FILTER)
    if process.returncode:
        raise UnavailableError(f"dpkg-deb could not read {file.name}")
    return name, version
