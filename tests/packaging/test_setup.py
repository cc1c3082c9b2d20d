"""The set-up of this repository, with small packages for large ones, and folders for indexes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("set-up")]  # they go on with one environment

ROOT = Path(__file__).parents[2]
PROJECT = """
[project]
name = "small"
version = "1.0"

[project.optional-dependencies]
model = ["torch"]
dev = ["alpha"]

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile


def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("small-1.0.dist-info/METADATA", '''Metadata-Version: 2.1
Name: small
Version: 1.0
Provides-Extra: model
Requires-Dist: torch; extra == "model"
Provides-Extra: dev
Requires-Dist: alpha; extra == "dev"
''')
        wheel.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("small-1.0.dist-info/RECORD", "")
    return name
"""


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes] | None = None) -> None:
    """Write a wheel into an index of folders, and into the folder itself."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    contents = (files or {f"{name}.py": b""}) | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in contents.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o100755 << 16  # uv itself is a program
            archive.writestr(entry, content)
    page = folder / "simple" / name / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../{wheel.name}">{wheel.name}</a>')


def write_uv(folder: Path) -> str:
    """Pack the uv that is installed here, and return its version."""
    uv = distribution("uv")
    files = {}
    for path in uv.files or ():
        if path.parts[0] == "uv" and path.suffix == ".py":
            files[path.as_posix()] = path.locate().read_bytes()
        elif path.name == "uv":
            files[f"uv-{uv.version}.data/scripts/uv"] = Path(path.locate()).read_bytes()
    write_wheel(folder, "uv", uv.version, files)
    return uv.version


def write_repository(parent: Path) -> Path:
    """Write a repository with this one's set-up, in a folder with an odd name."""
    folder = parent / "ein Ordner ü"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "requirements" / "install.py", folder / "requirements")
    index = folder / "index"
    index.mkdir()
    write_wheel(index, "torch", "1.0")
    write_wheel(index, "alpha", "2.0")
    write_wheel(index, "beta", "3.0")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "requirements" / "constraints.txt").write_text(f"uv=={write_uv(index)}\ntorch==1.0\n")
    (folder / "requirements" / "alone.txt").write_text("beta\n")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that is installed: an environment takes seconds, so that whoever finds one goes on with it."""
    return write_repository(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def environment(repository: Path) -> dict[str, str]:
    """PyTorch's own index, and everything else outside of this machine, cannot be reached."""
    index = repository / "index"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(repository / "home"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": index.as_uri(),
        "UV_DEFAULT_INDEX": (index / "simple").as_uri(),
        "UV_HTTP_RETRIES": "0",
    }


@pytest.fixture
def install(repository: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "requirements/install.py", ".venv", *arguments],
            cwd=repository,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def installers(repository: Path) -> dict[str, str]:
    """Which program installed each package."""
    program = """
import importlib.metadata, json
found = importlib.metadata.distributions()
print(json.dumps({one.name: (one.read_text("INSTALLER") or "").strip() for one in found}))
"""
    python = repository / ".venv" / "bin" / "python"
    found = json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)
    return {name: installer for name, installer in found.items() if name in ("torch", "small", "alpha", "beta")}


def test_pip_brings_torch_where_its_index_cannot_be_reached_and_uv_the_rest(
    repository: Path, install: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = install("model")
    assert done.returncode == 0, done.stderr
    assert "the index of PyTorch's own builds cannot be reached" in done.stdout
    assert installers(repository) == {"torch": "pip", "small": "uv"}
    more = install("model,dev", "--alone", "requirements/alone.txt")
    assert more.returncode == 0, more.stderr
    assert "creating .venv" not in more.stdout
    assert installers(repository) == {"torch": "pip", "small": "uv", "alpha": "uv", "beta": "uv"}

    constraints = repository / "requirements" / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before.replace("torch==1.0", "torch==1.1"))
    fails = install("model")
    constraints.write_text(before)
    assert fails.returncode == 1
    assert "ERROR: " in fails.stderr  # pip's own words
    assert fails.stderr.endswith(
        "error: the installation failed for the reason above; run the same command to continue\n"
    )


def test_an_interrupted_installation_starts_anew(
    repository: Path, environment: dict[str, str], install: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # The set-up begins anew below: here it may go on with what another test left.
    (repository / ".venv" / "interrupted").unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, "requirements/install.py", ".venv", "model"],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert "installing model into .venv\n" in process.stdout
        os.killpg(process.pid, signal.SIGKILL)
    (site,) = (repository / ".venv" / "lib").glob("python*/site-packages")
    (site / "torch.py").write_text("half a")  # what an installer may have left
    # Not even its index is reached by uv, now.
    done = install("model,dev", "--alone", "requirements/alone.txt", UV_DEFAULT_INDEX="https://packages.example/simple")
    assert done.returncode == 0, done.stderr
    assert "creating .venv" in done.stdout
    assert "trying pip" in done.stdout
    assert set(installers(repository).values()) == {"pip"}
    assert (site / "torch.py").read_text() == ""
    assert not (repository / ".venv" / "interrupted").exists()


@pytest.mark.parametrize(
    ("stamp", "changed", "current"),
    [
        (".demo", "Makefile", True),
        (".demo", "requirements/constraints.txt", False),
        (".demo", "pyproject.toml", False),
        (".demo", "requirements/no-deps.txt", True),
        (".text", "requirements/no-deps.txt", False),
        (".dev", "requirements/no-deps.txt", False),
        (".dev", "pyproject.toml", False),
    ],
)
def test_what_changed_is_installed_again(tmp_path: Path, stamp: str, changed: str, *, current: bool) -> None:
    repository = write_repository(tmp_path)
    (repository / "requirements" / "no-deps.txt").touch()
    (repository / ".venv").mkdir()
    for age, path in enumerate((".venv/.dev", ".venv/.text", ".venv/.demo")):
        (repository / path).touch()
        os.utime(repository / path, (2e9 - age, 2e9 - age))
    os.utime(repository / changed, (2.1e9, 2.1e9))
    done = subprocess.run(["make", "--question", f".venv/{stamp}"], cwd=repository, capture_output=True, check=False)
    assert done.returncode == (0 if current else 1), done.stderr
