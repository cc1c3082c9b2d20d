"""Trims the wheels of a function down to the code that it can import, and the licenses."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path, PurePath

# Written by the installer, different on each machine or run.
_INSTALLER_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
# For compilers and type checkers. Headers are not among them: packages that use cffi may read theirs.
_FOR_TOOLS = frozenset({".a", ".la", ".pxd", ".pyc"})
_LICENSES = ("licen", "copying", "notice", "authors")

# Patterns, in which "*" stands for any part of a path, of what nothing imports of the runtime's own requirements. Their
# versions are pinned, and tests/constructs/bundling/test_trimming.py imports and uses the rest. For numpy it is what is
# there for tests and for building extensions; f2py stays, since "from numpy import *" imports it.
_UNUSED = (
    *("numpy/tests/*", "numpy/*/tests/*", "numpy/conftest.py", "numpy/_pyinstaller/*"),
    *("numpy/_core/include/*", "numpy/_core/lib/*", "numpy/random/lib/*", "numpy/random/_examples/*"),
    "numpy/f2py/src/*",
    *("numpy/_core/_simd.*", "numpy/_core/*_tests.*", "numpy/typing/mypy_plugin.py"),
    # A page that documents HTTP interfaces, in a browser.
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.min.*",
)
# Which version it is, and its license.
_METADATA = ("*.dist-info/METADATA", "*.dist-info/WHEEL", "*.dist-info/licenses/*")


def needed_files(folder: Path) -> dict[str, Path]:
    """Return what a function needs of the wheels that are installed in a folder, by the path in the package.

    Parameters
    ----------
    folder
        Where they were installed.
    """
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix(): file for path, file in files.items() if _is_needed(path, file)}


def chosen_files(folder: Path, patterns: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the files of installed wheels that match a pattern, besides the metadata, by the path in the package.

    Parameters
    ----------
    folder
        Where they were installed.
    patterns
        As those of `fnmatch`, whose ``*`` matches ``/`` too.

    Returns
    -------
    dict, list
        The files, and the patterns that match none.
    """
    files = needed_files(folder)
    chosen = {
        path: file
        for path, file in files.items()
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in (*_METADATA, *patterns))
    }
    return chosen, [pattern for pattern in patterns if not fnmatch.filter(files, pattern)]


def _is_needed(path: PurePath, file: Path) -> bool:
    # Scripts start with the path of this machine's interpreter.
    if path.parts[0] in {"bin", ".lock"} or path.suffix in _FOR_TOOLS or path.name == "py.typed":
        return False
    if path.parts[0].endswith(".dist-info"):
        return path.name not in _INSTALLER_FILES
    if path.name.lower().startswith(_LICENSES) and path.suffix != ".py":
        return True
    if path.suffix == ".pyi":
        return _is_read(file)
    # Only the tests themselves: some packages import helpers from their "tests" folder.
    if "tests" in path.parts[1:-1] and (path.name.startswith("test_") or path.name == "conftest.py"):
        return False
    return not any(fnmatch.fnmatchcase(path.as_posix(), pattern) for pattern in _UNUSED)


def _is_read(stub: Path) -> bool:
    """Tell whether a module takes its names from its stub when it is imported, as scikit-image's do (lazy-loader)."""
    module = stub.with_suffix(".py")
    return module.is_file() and b"attach_stub" in module.read_bytes()
