"""Installs the wheels that a Lambda function needs, for its own platform, from any host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.platform import LambdaPlatform

_INCLUDE = re.compile(r"^\s*(?:-r|--requirement|-c|--constraint)[\s=]*(\S+)")
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_PINNED = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(?:===?\s*[^\s;,*]+\s*(?:[;#\\]|--|$)|@)")
_LOCAL_WHEEL = re.compile(r"(?:^|\s|file://)([^\s;#]+\.whl)\b")


class Requirements:
    """Requirements of one function: lines as pip takes them, and requirements files.

    Parameters
    ----------
    entries
        A requirements file, or a list of requirement lines and requirements files. Files may include others by ``-r``
        and ``-c``.

    Raises
    ------
    PropError
        If a requirements file is missing.
    """

    def __init__(self, entries: Path | Sequence[str | Path]) -> None:
        self._entries = [entries] if isinstance(entries, Path) else list(entries)
        self._lines = [line for entry in self._entries for line in _lines(entry, Path.cwd(), frozenset())]

    def __bool__(self) -> bool:
        return bool(self.named)

    @property
    def named(self) -> list[str]:
        """The requirements alone: neither options nor comments."""
        return [line.strip() for _, line in self._lines if line.strip() and line.lstrip()[0] not in "-#"]

    def digest(self) -> str:
        """Return a hash over everything that the requirements say, local wheels included."""
        digest = sha256()
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

    def install(self, target: Path, platform: LambdaPlatform, *, name: str) -> None:
        """Install the requirements into a folder.

        Parameters
        ----------
        target
            Folder to fill; made if missing.
        platform
            What the function runs on.
        name
            Name of the function, for messages.

        Raises
        ------
        PropError
            If there is no set of wheels for this platform that satisfies the requirements.
        """
        command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--no-progress", "--color", "never"]
        command += ["--python", sys.executable, "--no-python-downloads", "--target", str(target)]
        command += ["--python-version", platform.python, "--python-platform", platform.uv_platform]
        command += ["--only-binary", ":all:"]
        command += ["--requirements", "-"]  # the lines, by standard input
        command += [f"--requirements={entry}" for entry in self._entries if isinstance(entry, Path)]
        lines = "\n".join(entry for entry in self._entries if isinstance(entry, str))
        done = subprocess.run(  # noqa: S603 # uv's own binary
            command, env=_environment(), input=lines, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PropError(self._explain(done.stderr, platform, name))

    def _explain(self, stderr: str, platform: LambdaPlatform, name: str) -> str:
        reason = _essence(stderr)
        culprits = [line for line in self.named if (match := _NAME.match(line)) and _mentions(reason, match[1])]
        subject = ", ".join(repr(line) for line in culprits or self.named)
        where = f"Python {platform.python} on {platform.architecture} ({platform.uv_platform})"
        if "wheels" in reason:
            fix = "require a version that has a wheel for this platform, or choose another LambdaPlatform"
        elif "Building" in reason:
            fix = "build a wheel of it first, or give the folder as source code"
        elif "Failed to fetch" in reason or "error sending request" in reason:
            fix = "check the connection and the package index (UV_DEFAULT_INDEX or pip's index-url)"
        elif len(culprits) > 1:
            fix = "drop one of them (the runtime has pinned requirements of its own)"
        else:
            fix = "correct the requirement"
        return f"requirements of {name}: {subject} cannot be bundled for {where}: {reason}; {fix}"


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


def _environment() -> dict[str, str]:
    """Return uv's environment, in which it goes where pip would, unless the user has told uv otherwise."""
    env = dict(os.environ)
    env.setdefault("UV_NATIVE_TLS", "1")  # the system's certificates, as pip does: a company's proxy has one of its own
    env.pop("UV_SYSTEM_PYTHON", None)  # would contradict --python
    configured = any(key in env for key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX", "UV_CONFIG_FILE"))
    if not configured and (index := _pip_index()):
        env["UV_DEFAULT_INDEX"] = index
    return env


def _pip_index() -> str | None:
    """Return the index that the user configured for pip, if any: uv does not read pip's configuration."""
    if index := os.environ.get("PIP_INDEX_URL"):
        return index
    command = [sys.executable, "-m", "pip", "config", "list"]  # nothing where pip is not installed
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"^(?:global|install)\.index-url='(.*)'$", done.stdout, re.MULTILINE)
    return found[1] if found else None
