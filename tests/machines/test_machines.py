"""Machines unlike those of developers: another user, without a home, far away, in a folder with an odd name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdk_inference.bundling.uv_environment import uv_environment
from cdk_inference.common.cache import cache_root
from cdk_inference.errors import ModelBuildError
from cdk_inference.local import aws
from cdk_inference.local.cdk import CdkCli

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
STRANGER = 54321  # a user of whom the system knows nothing
FILE = "größe 1.json"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with an odd name that every user may search, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ein Ordner ünï ") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def as_stranger() -> list[str]:
    """A command's prefix: another user, who may read everything (the clone may lie in the home of root)."""
    identity = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    prefix = ["setpriv", *identity, *reading]
    if os.geteuid() or not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs root, who may become another user")
    return prefix


@pytest.mark.e2e
def test_a_stranger_without_a_home_deploys_and_gets_rows(folder: Path, as_stranger: list[str]) -> None:
    """The model is built, the function bundled, the app synthesized and deployed, and a file's row read."""
    app, temporary = folder / "die App", folder / "temporäre Dateien"
    shutil.copytree(HERE / "app", app, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(HERE.parent / "e2e" / "stages" / "app" / "model", app / "model")
    temporary.mkdir()
    (app / FILE).write_text('{"a": 1, "b": 2, "c": 0, "d": 1}')
    for path in (folder, *folder.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    done = subprocess.run(
        [*as_stranger, sys.executable, HERE / "deploy.py", FILE],
        cwd=app,
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "TMPDIR": str(temporary),
            "TZ": "Asia/Kathmandu",
            "LC_ALL": "C",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [FILE, "SUCCEEDED", "Größer", None]
    kept = {path.name for path in app.iterdir()}
    assert kept <= {"app.py", "cdk.json", "größer.py", "model", FILE, "__pycache__"}, "it left something in the project"


@pytest.fixture
def homeless(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing can be written into this user's home; the folder for temporary files is returned."""
    for name in ("CDK_INFERENCE_CACHE", "XDG_CACHE_HOME", "UV_CACHE_DIR", "UV_NO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", f"{os.devnull}/home")  # even root cannot create it
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def endpoint() -> str:
    """An embedded AWS that nobody calls."""
    aws.use_key("http://127.0.0.1:1", aws.Key())
    return "http://127.0.0.1:1"


def test_caches_are_private_and_temporary_without_a_home(homeless: Path, endpoint: str) -> None:
    expected = homeless / f"cdk-inference-{os.getuid()}"
    assert cache_root() == expected
    assert expected.stat().st_mode & 0o777 == 0o700
    assert uv_environment({})["UV_CACHE_DIR"] == str(expected / "uv")
    assert uv_environment({"UV_CACHE_DIR": "chosen"})["UV_CACHE_DIR"] == "chosen"
    cli = CdkCli(endpoint, home=homeless).environment()
    assert cli["HOME"] == str(homeless)
    assert cli["CDK_INFERENCE_CACHE"] == str(expected)


@pytest.mark.parametrize("made", ["by all", "by a link"])
def test_a_temporary_cache_that_others_may_fill_fails(homeless: Path, made: str) -> None:
    cache = homeless / f"cdk-inference-{os.getuid()}"
    if made == "by all":
        cache.mkdir()
        cache.chmod(0o777)
    else:
        cache.symlink_to(homeless)
    with pytest.raises(ModelBuildError, match=r"must be a folder that only you can write; set CDK_INFERENCE_CACHE$"):
        cache_root()


def test_a_home_that_can_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.delenv("CDK_INFERENCE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root().is_relative_to(tmp_path)
    assert "UV_CACHE_DIR" not in uv_environment({})
    assert CdkCli(endpoint, home=tmp_path / "cli").environment()["HOME"] == str(tmp_path)
