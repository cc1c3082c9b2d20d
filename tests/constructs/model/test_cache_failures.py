"""Caches that cannot be written: full, read-only, or no folder at all."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.constructs.model.conftest import write_recipe

from cdk_inference.errors import ModelBuildError
from cdk_inference.model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdk_inference.model import BuiltModel

pytestmark = pytest.mark.slow

SMALL = 5000  # bytes: less than the network takes


def build(recipe: Path, cache: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdk_inference.model", "build", str(recipe), "--cache", str(cache)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_disk_that_is_full_fails_with_one_message_and_leaves_nothing(onnx_recipe: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which the system refuses to write beyond just like a full disk."""
    recipe, cache = onnx_recipe, tmp_path / "cache"
    limit = (SMALL, SMALL)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # it would write what does not fit
    done = build(recipe, cache, env=environment, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: model 'tiny': ")
    assert "File too large" in last
    assert 'clear the cache with "python -m cdk_inference.model cache clear"' in last
    assert not [path for path in cache.rglob("*") if path.is_dir() and path.parent.name in ("models", "passes")]
    build_model(recipe, cache=cache)  # with room again


@pytest.mark.parametrize("kind", ["a file", "no disk"])
def test_cache_that_cannot_be_a_folder_fails(make_recipe: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    cache = {"a file": tmp_path / "file", "no disk": Path("/proc/cdk-inference")}[kind]
    with pytest.raises(
        ModelBuildError, match=rf"model 'tiny': cannot write to the cache {cache}: .*; set CDK_INFERENCE"
    ):
        build_model(make_recipe(), cache=cache)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may read, which they may not in pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_cache_that_is_read_only_fails(public: Path, request: pytest.FixtureRequest) -> None:
    recipe = write_recipe(public / "recipe")
    (public / "cache").mkdir(mode=0o555)
    request.getfixturevalue("unprivileged")
    with pytest.raises(ModelBuildError, match=r"cannot write to the cache .*: Permission denied; set CDK_"):
        build_model(recipe, cache=public / "cache")


def test_cache_that_is_read_only_serves_what_it_has(tiny: tuple[Path, Path, BuiltModel], tmp_path: Path) -> None:
    """Folders without the right to write; root ignores that, so the lock's place is taken by a folder as well."""
    recipe, cache, built = tiny
    copy = shutil.copytree(cache, tmp_path / "cache")
    for lock in copy.glob("models/.*.lock"):
        lock.unlink()
        lock.mkdir()
    folders = [copy, *(path for path in copy.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert build_model(recipe, cache=copy).asset_hash == built.asset_hash
    finally:
        for folder in folders:
            folder.chmod(0o700)
