"""Compiles the modules of a package for the Python that runs it, so that a cold start compiles none.

The bytecode is unchecked (PEP 552): Python takes it without a look at its source, whatever the times of the files are.
It depends on the minor version of CPython alone, not on the architecture.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.common.cache import hash_data, home
from cdk_inference.common.contents import content_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.common.store import Store

COMPILERS = "CDK_INFERENCE_COMPILERS"
"""Variable with the paths of more interpreters, separated like those of ``PATH``.

They are asked before one is downloaded. A script that starts an emulated interpreter will do: the bytecode is the same.
"""

_MANY = 20  # modules of a package from which its bytecode is kept: a process takes as long as it takes for a dozen
_BYTECODE = "bytecode.zip"
_ROOT = "/var/task"  # where Lambda puts the package
_DOWNLOAD_SECONDS = 120
# "Request failed after 1 retry in 4.2s": a warning that differs at each synth would differ in the assembly too.
_TOOK = re.compile(r" in \d[\d.]*m?s\b")
_SETTINGS = frozenset(
    (
        *("UV_CONFIG_FILE", "UV_NO_CONFIG", "UV_OFFLINE", "VIRTUAL_ENV"),
        *("UV_PYTHON_DOWNLOADS", "UV_PYTHON_INSTALL_DIR", "UV_PYTHON_PREFERENCE", "UV_MANAGED_PYTHON"),
        *("UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL"),
    )
)

# Runs in the interpreter of the target, on files as JSON: [path in the package, path here].
_COMPILER = """
import importlib.util, json, marshal, os, sys

root, output = sys.argv[1:]
for name, path in json.load(sys.stdin):
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, f"{root}/{name}", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        continue  # a template, or for another version of Python: importing it would fail as well
    target = os.path.join(output, importlib.util.cache_from_source(name, optimization=""))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little"))  # by hash, not checked
        file.write(importlib.util.source_hash(source) + marshal.dumps(code))
"""
# Bytecode of a pre-release, or of another Python, is not what Lambda's Python reads.
_CHECK = """
import platform, sys
version = sys.version_info
print(platform.python_implementation(), f"{version.major}.{version.minor}", version.releaselevel, sys.executable)
"""


class BytecodeError(Exception):
    """There is no bytecode; the message says why, and what helps."""


def interpreter(python: str) -> str:
    """Return the path of an interpreter whose bytecode a version of Python reads.

    This one, if it is of that version; otherwise one that uv finds on this machine; otherwise one that
    ``CDK_INFERENCE_COMPILERS`` names; otherwise one that uv downloads, unless its settings (``UV_PYTHON_DOWNLOADS``,
    ``UV_OFFLINE``, uv.toml) forbid that.

    Parameters
    ----------
    python
        The version, such as ``"3.14"``.

    Raises
    ------
    BytecodeError
        If there is none, or one that is named does not start.
    """
    found, reason = _search(python)
    if found is None:
        raise BytecodeError(
            f"CPython {python} must be on this machine, got none, and uv installed none ({reason}); run "
            f"'uv python install {python}', and synthesize again"
        )
    return found


@cache
def _search(python: str) -> tuple[str | None, str]:
    """Return the path of an interpreter, or None and the reason; one search in a synth is enough."""
    if _is_this(python):
        return sys.executable, ""
    found, _ = _ask_uv("python", "find", "--no-python-downloads", "--no-project", f"cpython@{python}")
    if found and (checked := _checked(found, python)):
        return checked, ""
    for named in _named():
        if _checked(named, python):
            return named, ""  # and not what it calls itself: an emulated one does not start by its own path
    sys.stderr.write(f"looking for CPython {python}, which compiles the functions' modules\n")
    # `uv run` and not `uv python install`, which downloads where only automatic downloads are forbidden, too. Managed
    # ones alone: those on PATH were looked at.
    program = ("python", "-c", "import sys; print(sys.executable)")
    found, reason = _ask_uv("run", "--no-project", "--managed-python", "--python", f"cpython@{python}", *program)
    if found and (checked := _checked(found, python)):
        return checked, ""
    return None, reason or f"{found} is another one"


def traces(python: str) -> list[str]:
    """Return what hints at interpreters of a version on this machine, without starting any process.

    As long as it stays the same, and so do uv's settings, looking for one again is in vain.

    Parameters
    ----------
    python
        The version, such as ``"3.14"``.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or home() / ".local" / "share")
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    on_path = shutil.which(f"python{python}")
    here = sys.executable if _is_this(python) else None
    downloaded = sorted(str(path) for path in managed.glob(f"cpython-{python}*"))
    return [*filter(None, [here, on_path]), *_named(), *downloaded]


def settings() -> dict[str, str]:
    """Return uv's settings in the environment, which decide what it finds and downloads."""
    return {name: value for name, value in sorted(os.environ.items()) if name in _SETTINGS}


def compile_packages(
    files: Mapping[str, Path | bytes], folder: Path, *, python: str, executable: str, store: Store
) -> dict[str, Path | bytes]:
    """Compile the modules among files, those of a large package once for all functions that have it.

    Parameters
    ----------
    files
        Files of the package by their path in it.
    folder
        A folder to work in; made if missing.
    python, executable
        Version and path of the interpreter.
    store
        Keeps the bytecode of large packages, for each interpreter.

    Returns
    -------
    dict
        Files of bytecode by their path in the package.

    Raises
    ------
    BytecodeError
        If the interpreter fails.
    """
    packages: dict[str, dict[str, Path | bytes]] = {}
    for name, content in files.items():
        if name.endswith(".py"):
            packages.setdefault(name.partition("/")[0], {})[name] = content
    compiled: dict[str, Path | bytes] = {}
    rest: dict[str, Path | bytes] = {}
    state = Path(executable).stat()
    compiler = [python, executable, state.st_size, state.st_mtime_ns]
    for package, modules in sorted(packages.items()):
        if len(modules) < _MANY:
            rest |= modules
            continue

        def fill(entry: Path, package: str = package, modules: Mapping[str, Path | bytes] = modules) -> None:
            made = compile_modules(modules, folder / f"package-{package}", python=python, executable=executable)
            with zipfile.ZipFile(entry / _BYTECODE, "w") as archive:
                for name, path in made.items():
                    archive.write(path, name)

        with zipfile.ZipFile(store.make(hash_data([compiler, content_digest(modules)]), fill) / _BYTECODE) as archive:
            compiled |= {name: archive.read(name) for name in archive.namelist()}
    if rest:
        compiled |= compile_modules(rest, folder / "rest", python=python, executable=executable)
    return compiled


def compile_modules(
    files: Mapping[str, Path | bytes], folder: Path, *, python: str, executable: str
) -> dict[str, Path]:
    """Compile the modules among files, each to the place where Python looks for it.

    The same modules give the same bytes, whatever the folder, the umask, the environment or the run. One fresh process
    compiles all of them, in the order of their names. Other patch versions of Python may give other bytes.

    Parameters
    ----------
    files
        Files of the package by their path in it. Those that are not valid in this version of Python are left out.
    folder
        Where the bytecode is written; made if missing.
    python, executable
        Version and path of the interpreter.

    Returns
    -------
    dict
        Files of bytecode by their path in the package.

    Raises
    ------
    BytecodeError
        If the interpreter fails.
    """
    compiled, generated = folder / "compiled", folder / "generated"
    compiled.mkdir(parents=True)
    generated.mkdir()
    modules: list[tuple[str, str]] = []
    for name, content in sorted((name, content) for name, content in files.items() if name.endswith(".py")):
        path = content
        if isinstance(content, bytes):
            path = generated / f"{len(modules)}.py"
            path.write_bytes(content)
        modules.append((name, str(path)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(  # noqa: S603 # the interpreter found above
        [executable, "-P", "-s", "-S", "-W", "ignore", "-X", "utf8", "-c", _COMPILER, _ROOT, str(compiled)],
        env={**environment, "PYTHONHASHSEED": "0"},
        input=json.dumps(modules).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BytecodeError(f"{executable} cannot compile for Python {python} ({reason}); repair or remove it")
    return {path.relative_to(compiled).as_posix(): path for path in compiled.rglob("*.pyc")}


def _named() -> list[str]:
    """Return the interpreters that the user names."""
    return [path for path in os.environ.get(COMPILERS, "").split(os.pathsep) if path]


def _is_this(python: str) -> bool:
    """Tell whether the interpreter that runs this is of a version."""
    version = sys.version_info
    final = platform.python_implementation() == "CPython" and version.releaselevel == "final"
    return final and bool(sys.executable) and python == f"{version.major}.{version.minor}"


def _ask_uv(*arguments: str) -> tuple[str | None, str]:
    """Return what uv prints, or None and the reason."""
    import uv  # noqa: PLC0415 # a warm synth needs none

    environment = uv_environment({"UV_HTTP_RETRIES": "1", **os.environ})
    try:
        done = subprocess.run(  # noqa: S603 # uv's own binary
            [uv.find_uv_bin(), "--no-progress", "--color", "never", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_DOWNLOAD_SECONDS} s"
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        reasons = [line.partition(": ")[2] for line in lines if line.startswith(("cause: ", "hint: "))]
        reason = ": ".join([*errors[:1], *reasons[-1:]]) or f"uv ended with {done.returncode}"
        return None, _TOOK.sub("", reason)
    return done.stdout.strip(), ""


def _checked(executable: str, python: str) -> str | None:
    """Return the path of an interpreter, if it is what it is said to be."""
    try:
        done = subprocess.run(  # noqa: S603 # found by uv, or named by the user
            [executable, "-I", "-S", "-c", _CHECK], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BytecodeError(f"{executable} cannot start ({error.strerror}); repair or remove it") from None
    words = done.stdout.rstrip("\n").split(" ", 3)
    return words[3] if words[:3] == ["CPython", python, "final"] else None
