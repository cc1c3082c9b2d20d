"""Which files are taken, and when."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from inference_runtime.edge.inputs import folder
from inference_runtime.edge.inputs.folder import ChangedError, FoundFile, WatchedFolder
from inference_runtime.edge.storage.records import FOLDER, Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass."""
    time = [1_000.0]
    monkeypatch.setattr(folder.time, "monotonic", lambda: time[0])

    def pass_(seconds: float) -> None:
        time[0] += seconds

    return pass_


def taken(watched: WatchedFolder) -> list[str]:
    """The files that may be taken now."""
    found: list[str] = []
    while (file := watched.oldest(dict)) is not None and file.key not in found:
        watched.pass_by(file)
        found.append(file.key)
        if not watched._settled:
            break
    return found


def record(path: Path) -> Record:
    stamp = folder._stamp(path.lstat())
    return Record(7, FOLDER, path.name, "d", 1, "", path=os.fsencode(path.name), stamp=stamp)


def test_a_file_is_taken_when_nobody_writes_it_any_more(tmp_path: Path, now: Callable[[float], None]) -> None:
    watched = WatchedFolder(tmp_path, settle_seconds=2, after="remove")
    growing, partial = tmp_path / "growing", tmp_path / "renamed.jpg.PART"
    partial.write_bytes(b"whole")
    for size in range(3):
        growing.write_bytes(b"x" * (size + 1))
        assert taken(watched) == []
        now(1.5)
    partial.rename(tmp_path / "renamed.jpg")
    assert taken(watched) == ["renamed.jpg"]
    now(1.5)
    assert taken(watched) == ["growing"]


def test_old_files_come_first_and_those_of_tools_never(tmp_path: Path, now: Callable[[float], None]) -> None:
    watched = WatchedFolder(tmp_path, settle_seconds=0, after="remove", suffixes=(".jpg",))
    for age, name in enumerate(
        ("c.jpg", "b.JPG", "sub/a.jpg", ".hidden.jpg", "done/d.jpg", ".git/e.jpg", "f.png", "g~")
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "link.jpg").symlink_to(tmp_path / "c.jpg")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    assert taken(watched) == ["sub/a.jpg", "c.jpg"]


def test_folders_that_stay_empty_are_removed_whatever_the_clock_does(
    tmp_path: Path, now: Callable[[float], None]
) -> None:
    watched = WatchedFolder(tmp_path, settle_seconds=0, after="remove", empty_seconds=3_600)
    old, new, used = tmp_path / "2025" / "01", tmp_path / "new", tmp_path / "used"
    for path in (old, new, used, tmp_path / "done" / "empty", tmp_path / ".git"):
        path.mkdir(parents=True)
    for path in (old, used):
        os.utime(path, (0, 0))  # it was made before the clock was set
    taken(watched)
    now(folder.EMPTY_SECONDS - 1)
    (used / "file").write_bytes(b"x")
    assert taken(watched) == ["used/file"]
    (used / "file").unlink()
    os.utime(used, (0, 1))
    assert old.exists()
    now(1)
    taken(watched)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "2025", "done", "new", "used"]
    assert not old.exists()
    os.utime(tmp_path / "2025", (0, 0))
    taken(watched)
    now(folder.EMPTY_SECONDS)
    taken(watched)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "done", "new"]
    never = WatchedFolder(tmp_path, settle_seconds=0, after="remove")
    os.utime(new, (0, 0))
    taken(never)
    now(10**9)
    taken(never)
    assert new.exists()


def test_a_file_that_changes_is_not_mixed_up_with_what_was_found(tmp_path: Path) -> None:
    watched = WatchedFolder(tmp_path, settle_seconds=0, after="remove")
    path = tmp_path / "a"
    path.write_bytes(b"first")
    first = watched.oldest(dict)
    assert first is not None
    before = record(path)
    assert watched.read(first.path, first.stamp) == b"first"
    path.write_bytes(b"second one")
    for read in (lambda: watched.read(first.path, first.stamp), lambda: watched.digest(first, 100)):
        with pytest.raises(ChangedError):
            read()
    assert watched.finish(before)
    assert watched.set_aside(before)
    assert path.read_bytes() == b"second one"
    path.unlink()
    (tmp_path / "secret").write_bytes(b"secret one")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        watched.read(b"a", "")
    path.unlink()
    with pytest.raises(ChangedError):
        watched.read(b"a", "")


def test_moved_files_replace_none(tmp_path: Path) -> None:
    watched = WatchedFolder(tmp_path, settle_seconds=0, after="move")
    for text in ("one", "two"):
        (tmp_path / "a").write_text(text)
        assert watched.finish(record(tmp_path / "a"))
    assert {path.name: path.read_text() for path in (tmp_path / "done").iterdir()} == {"a": "one", "a.7": "two"}


def test_a_file_that_cannot_be_read_or_removed_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = WatchedFolder(tmp_path / "absent", settle_seconds=0, after="remove")
    assert [watched.oldest(dict) for _ in range(3)] == [None] * 3
    watched = WatchedFolder(tmp_path, settle_seconds=0, after="remove")
    (tmp_path / "a").write_bytes(b"x")
    for _ in range(3):
        found = watched.oldest(dict)
        assert isinstance(found, FoundFile)
        watched.pass_by(found)
        watched.refuse(found, PermissionError("not yours"))
    whole = record(tmp_path / "a")

    def refuse(*_: object) -> None:
        raise PermissionError("still not yours")

    with monkeypatch.context() as patched:
        patched.setattr(folder.os, "unlink", refuse)
        patched.setattr(folder.os, "rename", refuse)
        assert [watched.finish(whole) for _ in range(3)] == [False] * 3
        assert not watched.set_aside(replace(whole, path=b"a"))
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(str(tmp_path))[2].split(",")[0] for text in said] == [
        "/absent cannot be looked at: [Errno 2] No such file or directory: " + f"b'{tmp_path}/absent'",
        "/a cannot be read",
        "/a cannot be removed or moved",
        "/a cannot be moved to failed",
    ]


@pytest.mark.parametrize("after", ["remove", "move"])
@pytest.mark.parametrize("third", [False, True])
def test_a_file_that_takes_the_name_at_the_last_moment_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, third: bool
) -> None:
    """A camera renames each picture over `latest.jpg`, and may do so between a look at the file and its removal."""
    watched = WatchedFolder(tmp_path, settle_seconds=0, after=after)
    latest, rename, coming = tmp_path / "latest.jpg", os.rename, [b"second", b"third"][: 2 if third else 1]
    latest.write_bytes(b"first")
    scored = record(latest)

    def overtaken(source: bytes, target: bytes) -> None:
        for when in (0, 1):
            if when == 1:
                rename(source, target)
            if coming:
                (tmp_path / ".new").write_bytes(coming.pop(0))
                rename(tmp_path / ".new", latest)

    monkeypatch.setattr(folder.os, "rename", overtaken)
    assert watched.finish(scored)
    monkeypatch.undo()
    assert latest.read_bytes() == (last := b"third" if third else b"second")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [latest]
    assert watched.finish(record(latest))
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == (
        [] if after == "remove" else [last]
    )
