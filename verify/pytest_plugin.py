"""Fixtures for tests that run on other CPUs than this machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from verify import emulators
from verify.debian import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Found = TypeVar("_Found")


# For the whole session: before a test gives itself another cache, which would download everything anew.
@pytest.fixture(scope="session")
def cpu_without_vnni() -> list[str]:
    """Return the command before a program of this machine that gives it an x86 CPU without VNNI."""
    return _or_skip(emulators.x86_64)


@pytest.fixture(scope="session")
def arm64_python() -> list[str]:
    """Return the command that starts CPython 3.14 for arm64."""
    return _or_skip(emulators.python)


@pytest.fixture(scope="session")
def python_compiler() -> Path:
    """Return an executable that is CPython 3.14 to its caller, on this machine."""
    return _or_skip(emulators.compiler)


def _or_skip(find: Callable[[], _Found]) -> _Found:
    try:
        return find()
    except UnavailableError as error:
        pytest.skip(f"no emulator: {error}")
