"""Files that stay on the device do not fill its disk, and none is lost that was not sent."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.runtime.edge.device import SURE
from tests.runtime.edge.test_steps import settings
from tests.runtime.edge.test_storage import agent, opened

from inference_runtime.edge import clock
from inference_runtime.edge.storage import kept as module
from inference_runtime.edge.storage.kept import KeptFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference_runtime.edge.settings import Settings

__all__ = ["settings"]  # a fixture

DAY = 86_400.0


def fill(folder: Path, *names: str, size: int = 10) -> None:
    """Write files, one after the other, as the clock of the file system tells."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        before = path.lstat().st_ctime_ns
        while path.lstat().st_ctime_ns == before or not before:
            os.utime(path)  # its time is that of the next tick


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def pass_(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass, or have the clock show another one."""
    real, ahead = module.time.time, [0.0]
    monkeypatch.setattr(clock.time, "time", lambda: real() + ahead[0])

    def pass_(seconds: float) -> None:
        ahead[0] += seconds

    return pass_


def test_the_oldest_give_way_and_leave_no_empty_folders(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, tmp_path / "absent", seconds=0, max_bytes=100, removes=True)
    fill(tmp_path, *(f"{day}/{name}" for day in range(5) for name in "ab"), "link-target")
    (tmp_path / "link").symlink_to("link-target")
    kept.tidy()
    assert (kept.used, kept.full) == (90, False)
    assert left(tmp_path)[:3] == ["0", "1", "1/a"]
    kept.add(9)
    kept.tidy()
    fill(tmp_path, *"cd")
    kept.add(20)
    kept.tidy()
    assert (kept.used, left(tmp_path)[:4]) == (90, ["1", "2", "2/a", "2/b"])
    assert (tmp_path / "link").is_symlink()


def test_many_are_removed_in_several_turns_and_what_cannot_be_is_said_once_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_REMOVED", 2)
    kept = KeptFiles(tmp_path, seconds=0, max_bytes=20, removes=True)
    fill(tmp_path, *"abcdefg")
    for number in (5, 3, 1, 1):
        kept.tidy()
        assert len(left(tmp_path)) == number
    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "unlink", refuse)
        fill(tmp_path, *"hi")
        kept.add(20)
        for _ in range(3):
            kept.tidy()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "files that were kept long enough cannot be removed: not yours"
    ]


def refuse(*_: object) -> None:
    raise PermissionError("not yours")


def test_age_counts_by_a_clock_that_is_set(tmp_path: Path, pass_: Callable[[float], None]) -> None:
    def tidy() -> list[str]:
        KeptFiles(tmp_path, seconds=2 * DAY, max_bytes=10**9, removes=True).tidy()
        return left(tmp_path)

    fill(tmp_path, "a")
    pass_(DAY)
    assert tidy() == ["a"]
    pass_(-100 * 365 * DAY)  # the device boots without a clock that runs
    assert tidy() == ["a"]
    pass_(100 * 365 * DAY + 2 * DAY)
    assert tidy() == []


def test_a_file_that_came_before_the_clock_was_set_is_as_old_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a")
    os.utime(tmp_path / "a", ns=(5, 7))
    before = (tmp_path / "a").lstat()
    monkeypatch.setattr(module, "EARLIEST", before.st_ctime + 1e6)  # all of it was long ago
    monkeypatch.setattr(module, "is_set", lambda: True)
    KeptFiles(tmp_path, seconds=1e-9, max_bytes=10**9, removes=True).tidy()
    after = (tmp_path / "a").lstat()
    assert (after.st_mtime_ns, after.st_ctime_ns >= before.st_ctime_ns) == (7, True)


def test_nothing_is_taken_while_too_much_has_failed_and_nothing_is_lost(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched, failed = tmp_path / "watched", tmp_path / "watched" / "failed"
    fill(failed, "a/1", "a/2", size=50)
    fill(settings.state / "failed", "3", size=50)
    work = agent(replace(settings, max_failed_bytes=150, max_done_bytes=1, after="move"), opened(settings.state))
    (watched / "new.json").write_bytes(SURE)
    while work._work():
        pass
    assert (work.full, work.failed_bytes, (watched / "new.json").exists()) == (True, 150, True)
    assert "the folder failed is full (150 of 150 bytes): nothing is taken until somebody empties it" in caplog.text
    (failed / "a" / "1").unlink()
    work._failed.tidy(again_seconds=0)
    while work._work():
        pass
    assert (work.full, work.failed_bytes, (watched / "new.json").exists()) == (False, 100, False)
    work._done.tidy()
    assert left(watched) == ["done", "failed", "failed/a", "failed/a/2"]
