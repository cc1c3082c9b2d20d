"""The judges' tools are installed on first use, next to the project's own environment and not into it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from requirements.install import Environment

from verify.references import FOLDER, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

REQUIREMENTS = ROOT / "requirements" / "verify.txt"
MOTO = ROOT / "requirements" / "verify-moto.txt"
PACKAGE, LOCK = (Path(__file__).parent / name for name in ("package.json", "package-lock.json"))
"""The packages of npm. Telemetry and databases, which Azurite's blobs in memory never start, are left out: 180 MB."""

CDK_NAG_2 = "cdk-nag==2.38.2"
"""The last cdk-nag of its second major version, which is not in the environment of this project."""


class UnavailableError(Exception):
    """The judges cannot be installed on this machine."""


class Tools:
    """The judges' environments: Python's, Node's, and an old cdk-nag.

    Parameters
    ----------
    folder
        Where they are, or will be.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def command(self, name: str) -> Path:
        """Return a command of a Python package of ``requirements/verify.txt``."""
        return self.environment(REQUIREMENTS) / "bin" / name

    def environment(self, requirements: Path) -> Path:
        """Return the folder of a virtual environment with nothing but what a file pins."""
        name = "python" if requirements == REQUIREMENTS else requirements.stem
        return self._made(name, requirements.read_bytes(), lambda folder: self._install_python(folder, requirements))

    def package(self, name: str) -> Path:
        """Return the folder of an npm package of ``verify/package-lock.json``."""
        made = self._made("node", PACKAGE.read_bytes() + LOCK.read_bytes(), self._install_node)
        return made / "node_modules" / name

    def cdk_nag_2(self) -> Path:
        """Return a folder to put in front of ``PYTHONPATH``."""
        return self._made("cdk-nag-2", CDK_NAG_2.encode(), self._install_cdk_nag_2)

    def _made(self, name: str, content: bytes, install: Callable[[Path], None]) -> Path:
        """Install something if it is not there, or was made of something else."""
        folder = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        stamp = folder / ".made-of"
        made_of = hashlib.sha256(content + f"{platform.machine()} {sys.version}".encode()).hexdigest()
        with FileLock(folder.with_suffix(".lock")):
            if not stamp.exists() or stamp.read_text(encoding="utf-8") != made_of:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    install(folder)
                except (OSError, subprocess.CalledProcessError, SystemExit) as error:
                    raise UnavailableError(f"{name} cannot be installed: {error}") from error
                stamp.write_text(made_of, encoding="utf-8")
        return folder

    @staticmethod
    def _install_python(folder: Path, requirements: Path) -> None:
        environment = Environment(folder)
        environment.prepare()
        # Everything is pinned in the file, the dependencies of the dependencies included.
        environment.install_alone(requirements)
        environment.finish()

    @staticmethod
    def _install_node(folder: Path) -> None:
        folder.mkdir(parents=True)
        for path in (PACKAGE, LOCK):
            shutil.copy(path, folder)
        # A judge reads files: it needs neither CDK, which some name as a peer, nor scripts at installation.
        options = (
            "--omit=peer",
            "--legacy-peer-deps",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        )
        # Without this, Node trusts only the certificates that it ships, and not those of a company's proxy.
        environment = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
        subprocess.run(["npm", "ci", *options], cwd=folder, env=environment, check=True)
        # npm writes this last. When it is interrupted, its exit code may be 0.
        if not (folder / "node_modules" / ".package-lock.json").is_file():
            raise OSError("npm ended before it was done")

    @staticmethod
    def _install_cdk_nag_2(folder: Path) -> None:
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, CDK_NAG_2], check=True)
