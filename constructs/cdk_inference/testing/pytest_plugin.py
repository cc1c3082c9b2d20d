"""The pytest fixture of a whole pipeline: ``local_cloud``, an embedded AWS for the whole test session.

Add ``pytest_plugins = ["cdk_inference.testing.pytest_plugin"]`` to the top ``conftest.py``. It needs the extra
``local``.
"""

from __future__ import annotations

from cdk_inference.local.pytest_plugin import local_cloud

__all__ = ["local_cloud"]
