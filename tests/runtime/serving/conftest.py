"""A PostgreSQL of Debian's, for the tests that write rows there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
ACCOUNT = "postgres"


@pytest.fixture(scope="module")
def database() -> Iterator[dict[str, str]]:
    """A new database that is reached by a socket: the variables by which libpq finds it."""
    if not BINARIES or (os.getuid() == 0 and ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = ACCOUNT if os.getuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # the path of a socket is short
    if user is not None:
        shutil.chown(folder, user)
    data, names = folder / "data", ["-U", "scores"]
    made = [BINARIES[-1] / "initdb", "-D", data, *names, "-A", "trust", "-N", "--no-instructions", "-E", "UTF8"]
    subprocess.run(made, user=user, check=True, capture_output=True, cwd=folder)
    control(folder, "start")
    try:
        yield {"PGHOST": str(folder), "PGUSER": "scores", "PGDATABASE": "postgres"}
    finally:
        control(folder, "stop")
        shutil.rmtree(folder)


def control(folder: Path, action: str) -> None:
    """Start the database in a folder, or stop or restart it as a power cut does."""
    settings = f"-k {folder} -c listen_addresses= -c fsync=off"
    mode = [] if action == "start" else ["-m", "immediate"]
    command = [BINARIES[-1] / "pg_ctl", "-D", folder / "data", "-s", "-w", "-l", folder / "log", "-o", settings, *mode]
    user = ACCOUNT if os.getuid() == 0 else None
    subprocess.run([*command, action], user=user, check=True, capture_output=True, cwd=folder)
