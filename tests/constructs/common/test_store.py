"""Folders that are made once, and make room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.common.store import KINDS, Store, entries, limit_bytes, prune
from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from pathlib import Path


def fill(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"1" * 1000)


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} should have been found")


def test_entry_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "passes")
    assert store.get("k") is None
    made = store.make("k", fill)
    assert store.make("k", never) == store.get("k") == made
    assert (made / "a.bin").read_bytes() == b"1" * 1000


@pytest.mark.parametrize("damage", ["changed", "truncated", "removed", "added", "no digest"])
def test_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    file = store.make("k", fill) / "a.bin"
    match damage:
        case "changed":
            file.write_bytes(b"2" * 1000)
        case "truncated":
            file.write_bytes(b"")
        case "removed":
            file.unlink()
        case "added":
            (file.parent / "b.bin").write_bytes(b"")
        case _:
            (file.parent / ".sha256").unlink()
    assert store.get("k") is None
    assert (store.make("k", fill) / "a.bin").read_bytes() == b"1" * 1000


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        Store(tmp_path).make("k", half)
    assert list(tmp_path.iterdir()) == []


RACE = """
import sys, pathlib
from cdk_inference.common.store import Store
def fill(folder):
    for i in range(200):
        (folder / f"{i}.bin").write_bytes(bytes([i]) * 1000)
print(Store(pathlib.Path(sys.argv[1])).make("k", fill))
"""


def test_two_processes_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    results = [process.communicate() for process in processes]
    assert {out.decode().strip() for out, _ in results} == {str(tmp_path / "k")}
    assert Store(tmp_path).get("k") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["k"]


def test_entries_of_a_shared_cache_may_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        made = Store(tmp_path).make("k", fill)
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o775


@given(ages=st.lists(st.integers(2, 100), min_size=1, max_size=6, unique=True), limit=st.integers(0, 7000))
def test_the_least_recently_used_make_room(
    tmp_path_factory: pytest.TempPathFactory, ages: list[int], limit: int
) -> None:
    root = tmp_path_factory.mktemp("cache")
    now = time.time()
    for index, age in enumerate(ages):
        made = Store(root / KINDS[index % len(KINDS)]).make(f"{age}", fill)
        os.utime(made, (now - age * 3600,) * 2)
    size = 1000 + 64  # and the digest
    prune(root, limit)
    kept = sorted(int(entry.name) for entry, _, _ in entries(root))
    assert kept == sorted(ages)[: min(len(ages), limit // size)]


def test_what_was_just_used_is_kept(tmp_path: Path) -> None:
    Store(tmp_path / "passes").make("k", fill)
    assert prune(tmp_path, 0) == 0
    assert prune(tmp_path, 0, grace=0) == 1064
    assert list(entries(tmp_path)) == []


def test_limit_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDK_INFERENCE_CACHE_LIMIT_GB", raising=False)
    assert limit_bytes() == 10e9
    monkeypatch.setenv("CDK_INFERENCE_CACHE_LIMIT_GB", "0.5")
    assert limit_bytes() == 0.5e9


@pytest.mark.parametrize("value", ["much", "nan", "0", "-1"])
def test_limit_that_is_no_size_fails(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CDK_INFERENCE_CACHE_LIMIT_GB", value)
    with pytest.raises(ModelBuildError, match=f"CDK_INFERENCE_CACHE_LIMIT_GB must be .*, got '{value}'"):
        limit_bytes()


def test_what_is_being_made_and_what_is_locked_is_never_removed(tmp_path: Path) -> None:
    models = tmp_path / "models"
    building, abandoned = models / ".m-1.building", models / ".m-2.building"
    for folder in (building, abandoned):
        folder.mkdir(parents=True)
        fill(folder)
    os.utime(abandoned, (0, 0))
    with FileLock(models / ".m-1.lock"):
        os.utime(models / ".m-1.lock", (0, 0))
        prune(tmp_path, 0, grace=0)
        with pytest.raises(Timeout):
            FileLock(models / ".m-1.lock", is_singleton=False).acquire(timeout=0)
    assert building.is_dir()
    assert not abandoned.exists()
