"""Installs the wheels that a Lambda function needs, for its own platform, from any host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.common.platform import LambdaPlatform

_INCLUDE = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[\s=]*(\S+)")
_EDITABLE = re.compile(r"^\s*(?:-e|--editable)(?:[\s=.]|$)")
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_PINNED = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(?:(===?\s*[^\s;,*]+)\s*(?:[;#\\]|--|$)|@)")
_HASH = re.compile(r"\s--hash[=\s]\s*\S+")
_LOCAL_WHEEL = re.compile(r"(?:^|\s|file://)([^\s;#]+\.whl)\b")
# uv's variables that say where packages come from and how they get here. All others are dropped, those of later
# versions of uv too: they may change which versions are chosen (UV_OVERRIDE, UV_EXCLUDE_NEWER ...).
_UV_TRANSPORT = re.compile(
    r"UV_(?:DEFAULT_INDEX|INDEX|INDEX_.+|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|KEYRING_PROVIDER|CREDENTIALS_DIR"
    r"|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|OFFLINE|HTTP_.+|REQUEST_TIMEOUT|CONCURRENT_.+|CACHE_DIR|NO_CACHE|LINK_MODE)"
)

_PIP_LOOKS = ("PIP_CONFIG_FILE", "HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
"""Variables that say where pip looks for its files."""


class Requirements:
    """Requirements of one function: lines as pip takes them, and requirements files.

    Parameters
    ----------
    entries
        A requirements file, or a list of requirement lines and requirements files. Files may include others by ``-r``
        and ``-c``.
    excluded
        Distributions that are not installed, whatever requires them.

    Raises
    ------
    PropError
        If a requirements file is missing, or a requirement is editable.
    """

    def __init__(self, entries: Path | Sequence[str | Path], *, excluded: Sequence[str] = ()) -> None:
        self._entries = [entries] if isinstance(entries, Path) else list(entries)
        self._overrides = "".join(f"{name} ; python_version < '0'\n" for name in sorted(excluded))
        self._lines = [line for entry in self._entries for line in _lines(entry, Path.cwd(), frozenset())]
        for _, line in self._lines:
            if _EDITABLE.match(line):  # uv would run its setup.py, although it is told to build nothing
                raise PropError(
                    f"requirements must not be editable, got {line.strip()!r}; build a wheel of it and require that, "
                    "or give the folder as source code"
                )

    def __bool__(self) -> bool:
        return bool(self.named)

    @property
    def named(self) -> list[str]:
        """The requirements alone: neither hashes, options nor comments."""
        return [_HASH.sub("", line).strip() for line in self._requirements]

    @property
    def hashed(self) -> bool:
        """Whether each requirement says which hashes its files may have."""
        return all(_HASH.search(line) for line in self._requirements)

    @property
    def _requirements(self) -> list[str]:
        text = "\n".join(line for _, line in self._lines)
        lines = (line.strip() for line in re.sub(r"\\[ \t]*\n", " ", text).splitlines())
        return [line for line in lines if line and line[0] not in "-#"]

    def digest(self) -> str:
        """Return a hash over everything that the requirements say, local wheels included."""
        digest = sha256(self._overrides.encode())
        for folder, line in self._lines:
            digest.update(line.strip().encode() + b"\n")
            for wheel in _local_wheels(folder, line):
                digest.update(wheel.read_bytes())
        return digest.hexdigest()

    def unpinned(self, installed: dict[str, str]) -> dict[str, str]:
        """Return those of the installed distributions whose version the requirements leave open.

        Parameters
        ----------
        installed
            Version of each installed distribution.
        """
        pinned = {_normalize(match[1]) for _, line in self._lines if (match := _PINNED.match(line))}
        pinned |= {
            _normalize(wheel.name.split("-")[0])
            for folder, line in self._lines
            for wheel in _local_wheels(folder, line)
        }
        return {name: version for name, version in installed.items() if _normalize(name) not in pinned}

    def install(self, target: Path, platform: LambdaPlatform, *, name: str, dependencies: bool = True) -> None:
        """Install the requirements into a folder.

        Parameters
        ----------
        target
            Folder to fill; made if missing.
        platform
            The platform that the function runs on.
        name
            Name of the function, for messages.
        dependencies
            Whether what the requirements require is installed too.

        Raises
        ------
        PropError
            If there is no set of wheels for this platform that satisfies the requirements, or another version than
            the pinned one was installed.
        """
        import uv  # noqa: PLC0415 # what is in the cache needs neither uv nor packaging

        command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-progress", "--color", "never"]
        command += ["--python", sys.executable, "--no-python-downloads", "--target", str(target)]
        command += ["--python-version", platform.python, "--python-platform", platform.uv_platform]
        command += ["--only-binary", ":all:"]
        # A bundle must not depend on the folder that the app is run in, nor on the user who runs it.
        command += ["--no-config", "--no-sources"]
        if not dependencies:
            command += ["--no-deps"]
        # uv verifies each hash that it is told. If all are told, a package without one would be a surprise: refuse it.
        if self.hashed:
            command += ["--require-hashes"]
        if self._overrides:
            target.mkdir(parents=True, exist_ok=True)
            overrides = target.with_name(f"{target.name}.overrides.txt")
            overrides.write_text(self._overrides, encoding="utf-8")
            command += ["--overrides", str(overrides)]
        command += ["--requirements", "-"]  # the lines, by standard input
        command += [f"--requirements={entry}" for entry in self._entries if isinstance(entry, Path)]
        lines = "\n".join(entry for entry in self._entries if isinstance(entry, str))
        done = subprocess.run(  # noqa: S603 # uv's own binary
            command, env=index_environment(), input=lines, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PropError(self._explain(done.stderr, platform, name))
        if wrong := self.contradicted(installed_distributions(target)):
            raise PropError(
                f"requirements of {name} must be installed as they are written, got {', '.join(wrong)}; find what "
                "changes them, such as a setting of uv"
            )

    def contradicted(self, installed: dict[str, str]) -> list[str]:
        """Return what was installed in another version than the one that the requirements pin, in words.

        Parameters
        ----------
        installed
            Version of each installed distribution.
        """
        from packaging.specifiers import SpecifierSet  # noqa: PLC0415 # as above

        pins: dict[str, list[str]] = {}
        for _, line in self._lines:
            if (match := _PINNED.match(line)) and match[2]:
                pins.setdefault(_normalize(match[1]), []).append(match[2])
        return [
            f"{name} {version} in spite of {' and '.join(wanted)}"
            for name, version in installed.items()
            # More than one pin if each is for some platforms only.
            if (wanted := pins.get(_normalize(name)))
            and not any(SpecifierSet(pin).contains(version, prereleases=True) for pin in wanted)
        ]

    def _explain(self, stderr: str, platform: LambdaPlatform, name: str) -> str:
        reason = _essence(stderr)
        culprits = [line for line in self.named if (match := _NAME.match(line)) and _mentions(reason, match[1])]
        subject = ", ".join(repr(line) for line in culprits or self.named)
        where = f"Python {platform.python} on {platform.architecture} ({platform.uv_platform})"
        if "ash mismatch" in reason:
            fix = (
                "the index serves another file than the one that was pinned: find out why before you trust it, and only"
                " then write its hash"
            )
        elif "no trusted hash" in reason:
            fix = "write the hashes of what it requires too, or leave all hashes out"
        elif "wheels" in reason:
            fix = "require a version that has a wheel for this platform, or choose another LambdaPlatform"
        elif "Building" in reason:
            fix = "build a wheel of it first, or give the folder as source code"
        elif "invalid peer certificate" in reason:
            fix = (
                "add the authority that signs your connections, such as a company proxy's, to the system's"
                " certificates, or name a file with it in SSL_CERT_FILE"
            )
        elif "Failed to fetch" in reason or "error sending request" in reason:
            fix = "check the connection and the package index (UV_DEFAULT_INDEX or pip's index-url)"
        elif len(culprits) > 1:
            fix = "drop one of them (the runtime has pinned requirements of its own)"
        else:
            fix = "correct the requirement"
        return f"requirements of {name}: {subject} cannot be bundled for {where}: {reason}; {fix}"


@cache
def uv_version() -> str:
    """Return the version of uv, which may choose other wheels than another one."""
    from importlib.metadata import version  # noqa: PLC0415 # as above

    return version("uv")


def installed_distributions(folder: Path) -> dict[str, str]:
    """Return the version of each distribution installed in a folder.

    Parameters
    ----------
    folder
        Where they were installed.
    """
    names = sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))
    return {name: version for name, _, version in (full.rpartition("-") for full in names)}


def _lines(entry: str | Path, folder: Path, parents: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the lines of a requirement or a requirements file, its includes expanded, each with its folder."""
    if isinstance(entry, str):
        yield folder, entry
        return
    try:
        text = entry.read_text(encoding="utf-8")
    except OSError as error:
        raise PropError(f"requirements file {str(entry)!r} cannot be read: {error.strerror}") from None
    for line in text.splitlines():
        yield entry.parent, line
        include = _INCLUDE.match(line)
        if include and "://" not in include[1]:
            path = (entry.parent / include[1]).resolve()
            if path not in parents:
                yield from _lines(path, path.parent, parents | {path})


def _local_wheels(folder: Path, line: str) -> list[Path]:
    """Return the wheel files that a line names: their bytes matter, not only their names."""
    candidates = [base / name for name in _LOCAL_WHEEL.findall(line) for base in (folder, Path.cwd())]
    return [path for path in candidates if path.is_file()][:1]


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _mentions(reason: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", reason, re.IGNORECASE) is not None


def _essence(stderr: str) -> str:
    """Return the one sentence of uv's report that says why."""
    text = " ".join(stderr.replace("│", " ").split())
    because = re.search(r"\b(Because\b.*?)(?:, we can conclude\b|\.(?:\s|$)|hint:|$)", text)
    if because:
        return because[1].strip()
    text = re.split(r"\shint:", text)[0]
    return re.sub(r"\s*(?:cause:|╰─▶|├─▶|Caused by:)\s*", ": ", re.sub(r"^(?:error:|\W)\s*", "", text))[:500]


def index_environment() -> dict[str, str]:
    """Return uv's environment, in which it goes where pip would, unless the user has told uv otherwise."""
    env = {key: value for key, value in os.environ.items() if key[:3] != "UV_" or _UV_TRANSPORT.fullmatch(key)}
    env = uv_environment(env)
    configured = any(key in env for key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX"))
    if not configured and (index := _pip_index()):
        env["UV_DEFAULT_INDEX"] = index
    return env


def _pip_index() -> str | None:
    """Return the index that the user configured for pip, if any: uv does not read pip's configuration."""
    if index := os.environ.get("PIP_INDEX_URL"):
        return index
    return _configured_index(*(os.environ.get(name) for name in _PIP_LOOKS))


@cache
def _configured_index(*_: str | None) -> str | None:
    """Ask pip once in a synth for what its files say, as long as they are the same files."""
    command = [sys.executable, "-m", "pip", "config", "list"]  # nothing where pip is not installed
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"^(?:global|install)\.index-url='(.*)'$", done.stdout, re.MULTILINE)
    return found[1] if found else None
