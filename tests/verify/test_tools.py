"""The judges' tools are installed whole, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from verify.tools import Tools, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


def test_an_npm_that_is_interrupted_fails_and_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm, started = tmp_path / "npm", tmp_path / "started"
    npm.write_text(f"#!/bin/sh\necho once >>'{started}'\n")  # and exits with 0
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="npm ended before it was done"):
            Tools(tmp_path / "tools").package("jsonata")
    assert started.read_text() == "once\n" * 2
