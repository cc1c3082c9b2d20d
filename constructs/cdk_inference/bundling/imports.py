"""Finds modules that a user's code imports at start-up, and that a function will not have."""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_OF_LAMBDA = frozenset(
    {
        *("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3"),
        *("awslambdaric", "bootstrap", "runtime_client", "simplejson", "snapshot_restore_py"),
    }
)
"""The modules that Lambda's runtime for Python brings besides Python's own."""


def missing_modules(zip_path: Path, sources: Mapping[str, Path | bytes]) -> dict[str, list[str]]:
    """Return the modules that are neither in a package nor in Lambda, by the file that imports them.

    Only what runs in any case counts: an import in a function, or one in a ``try`` or an ``if``, may never run, or may
    be caught.

    Parameters
    ----------
    zip_path
        The package.
    sources
        The user's files, by their path in it.
    """
    imported = {name: set(_imported(file.read_bytes())) for name, file in _scripts(sources)}
    if not any(imported.values()):
        return {}
    with zipfile.ZipFile(zip_path) as package:
        there = {PurePosixPath(name).parts[0].partition(".")[0] for name in package.namelist()}
    there |= sys.stdlib_module_names | _OF_LAMBDA
    return {name: sorted(modules - there) for name, modules in imported.items() if modules - there}


def _scripts(sources: Mapping[str, Path | bytes]) -> Iterator[tuple[str, Path]]:
    """Yield the files of Python at the root: what lies in a folder may never be imported."""
    for name, file in sources.items():
        if not isinstance(file, bytes) and PurePosixPath(name).suffix == ".py" and file.is_file():
            yield name, file


def _imported(code: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):  # which the check of the entry tells
        return
    yield from _roots(tree.body)


def _roots(nodes: Iterable[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module.partition(".")[0]
