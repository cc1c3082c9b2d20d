"""`make audit`, without the database that it asks."""

from __future__ import annotations

import runpy
import socket
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "audit.py"


def test_audit_without_its_database_fails_and_says_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setitem(main.__globals__, "DATABASE", closed.getsockname())
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 69
    assert capsys.readouterr().err.startswith("not audited: 127.0.0.1 cannot be reached")
