"""A pytest fixture with an embedded AWS for the whole test session.

Add ``pytest_plugins = ["cdk_inference.local.pytest_plugin"]`` to the top ``conftest.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdk_inference.local.cloud import LocalCloud

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def local_cloud() -> Iterator[LocalCloud]:
    """Run an embedded AWS, empty at first, with the pipes of whatever is deployed into it."""
    with LocalCloud() as cloud:
        yield cloud
