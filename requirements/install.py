"""Install this repository, with extras, into its virtual environment; `make` runs this.

uv does the work, because it is many times faster than pip. pip installs uv, and takes over where uv cannot reach an
index.
"""

from __future__ import annotations

import argparse
import os
import re
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINED = ("--constraint", str(ROOT / "requirements" / "constraints.txt"))
# Older versions of pip trust only the certificates that they ship.
PIP_TRUSTS_SYSTEM = (24, 2)


class Environment:
    """A virtual environment with uv in it.

    Parameters
    ----------
    folder
        Where it is, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._interrupted = folder / "interrupted"
        self._python = str(folder / "bin" / "python")
        self._variables = dict(os.environ)

    def prepare(self) -> None:
        """Create the environment if it is missing or was interrupted, and install uv.

        An interrupted installer may leave packages that look complete and are not. Downloads stay cached.
        """
        if self._interrupted.exists() or not self._read("-c", "import pip; print(pip.__version__)"):
            say(f"creating {self._folder.name}")
            command = [sys.executable, "-m", "venv", "--clear", str(self._folder)]
            if subprocess.run(command, check=False).returncode:  # noqa: S603
                sys.exit("error: Python cannot create a virtual environment; on Debian, install python3-venv")
        self._interrupted.touch()
        self._trust_the_system()
        self._pip("install", "--quiet", *CONSTRAINED, "uv")
        if not self._has_cache():
            self._variables["UV_NO_CACHE"] = "1"

    def finish(self) -> None:
        """Record that the installation is complete."""
        self._interrupted.unlink()

    def install(self, extras: str) -> None:
        """Install this repository, editable, with extras.

        Parameters
        ----------
        extras
            Names of extras, separated by commas.
        """
        wanted = (*CONSTRAINED, "--editable", f"{ROOT}[{extras}]")
        if self._reaches_pytorch():
            done = self._uv("install", *wanted)
        else:
            say("the index of PyTorch's own builds cannot be reached; pip looks for torch elsewhere, such as on PyPI")
            del self._variables["UV_TORCH_BACKEND"]
            self._pip("install", "--no-compile", *CONSTRAINED, "torch")
            with tempfile.TemporaryDirectory() as folder:
                excluded = Path(folder, "excluded.txt")
                excluded.write_text("torch\n", encoding="utf-8")
                done = self._uv("install", "--excludes", str(excluded), *wanted)
        if not done:
            say("uv failed; trying pip, whose configuration may know another way")
            self._pip("install", *wanted)

    def install_alone(self, requirements: Path) -> None:
        """Install requirements without their dependencies.

        Parameters
        ----------
        requirements
            A requirements file.
        """
        wanted = ("install", "--no-deps", "--requirement", str(requirements))
        if not self._uv(*wanted):
            self._pip(*wanted)

    def _trust_the_system(self) -> None:
        """Trust the certificates that the system trusts, a company proxy's among them, and use pip's index."""
        self._variables.setdefault("UV_SYSTEM_CERTS", "1")
        # Nothing in this repository uses this machine's GPU. UV_TORCH_BACKEND=auto installs the build that suits it.
        self._variables.setdefault("UV_TORCH_BACKEND", "cpu")
        configured = self._pip_configuration()
        chosen = any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX"))
        if "index-url" in configured and not chosen:
            self._variables["UV_DEFAULT_INDEX"] = configured["index-url"]
        version = self._read("-c", "import pip; print(pip.__version__)").split(".")
        paths = ssl.get_default_verify_paths()
        trusted = paths.cafile or paths.capath
        chosen = "cert" in configured or any(name in os.environ for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
        if trusted and not chosen and (int(version[0]), int(version[1])) < PIP_TRUSTS_SYSTEM:
            self._variables["PIP_CERT"] = trusted

    def _reaches_pytorch(self) -> bool:
        """Tell whether uv finds torch in PyTorch's index, after one try of a few seconds."""
        quick = {"UV_HTTP_RETRIES": "0", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "10"}
        return self._uv("compile", *CONSTRAINED, "--no-deps", "-", text="torch", quiet=True, variables=quick)

    def _has_cache(self) -> bool:
        """Tell whether uv's cache can be written; uv fails where it cannot."""
        folder = Path(self._read("-m", "uv", "--color", "never", "cache", "dir").strip())
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
        return os.access(folder, os.W_OK)

    def _pip_configuration(self) -> dict[str, str]:
        """Return pip's settings: those of the environment win, then those of its install command."""
        lines = self._read("-m", "pip", "config", "list")
        scopes = ("global", "install", ":env:")
        found = (re.findall(rf"^{scope}\.([\w-]+)='(.*)'$", lines, re.MULTILINE) for scope in scopes)
        return {name: value for settings in found for name, value in settings}

    def _pip(self, *arguments: str) -> None:
        if not self._run("-m", "pip", "--disable-pip-version-check", *arguments):
            sys.exit("error: the installation failed for the reason above; run the same command to continue")

    def _uv(self, command: str, *arguments: str, **options: Any) -> bool:
        return self._run("-m", "uv", "pip", command, "--python", self._python, *arguments, **options)

    def _run(
        self, *arguments: str, text: str = "", quiet: bool = False, variables: dict[str, str] | None = None
    ) -> bool:
        output = subprocess.DEVNULL if quiet else None
        try:
            done = subprocess.run(  # noqa: S603
                [self._python, *arguments],
                env={**self._variables, **(variables or {})},
                input=text or None,  # otherwise they may ask, for a password for instance
                text=True,
                stdout=output,
                stderr=output,
                check=False,
            )
        except OSError:  # the interpreter is missing
            return False
        return done.returncode == 0

    def _read(self, *arguments: str) -> str:
        """Return what Python prints; nothing if it is missing."""
        command = [self._python, *arguments]
        try:
            done = subprocess.run(command, env=self._variables, capture_output=True, text=True, check=False)  # noqa: S603
        except OSError:
            return ""
        return done.stdout


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Install what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the virtual environment is, or will be")
    parser.add_argument("extras", help="extras of this repository, separated by commas")
    parser.add_argument("--alone", type=Path, action="append", default=[], help="requirements without dependencies")
    options = parser.parse_args()
    environment = Environment(options.folder)
    environment.prepare()
    say(f"installing {options.extras} into {options.folder.name}")
    environment.install(options.extras)
    for requirements in options.alone:
        environment.install_alone(requirements)
    environment.finish()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to continue")
