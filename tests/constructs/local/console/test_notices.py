"""Notices of edits, also when they cannot be watched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.waiting import PATIENCE, wait_until

from cdk_inference.local.console import notices
from cdk_inference.local.console.notices import Edits, Notices

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from cdk_inference.local import LocalCloud


def test_an_error_that_nobody_thought_of_is_told_and_edits_are_watched_again(
    tmp_path: Path, local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ZeroDivisionError("a mistake"), KeyError("another")]

    def files(_: Path) -> None:
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(notices, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(local_cloud, "deployed_files", files)
    told = Notices()
    edits = Edits(tmp_path, lambda: local_cloud, told)
    with caplog.at_level(logging.WARNING):
        edits.start()
        try:
            wait_until(lambda: any(notice["kind"] == "watching" for notice in told.newest()), told.newest)
        finally:
            edits.stop(PATIENCE)
    assert [(notice["kind"], notice["text"]) for notice in reversed(told.newest())] == [
        ("failed", "ZeroDivisionError: a mistake"),
        ("failed", "KeyError: 'another'"),
        ("watching", ""),
    ]
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ZeroDivisionError, KeyError]


def test_a_notice_takes_the_place_of_the_one_before_it_on_the_same_topic() -> None:
    told = Notices()
    told.add("failure", "first try", topic="bug")
    told.add("failure", "another object", topic="other")
    told.add("failure", "second try", topic="bug")
    told.add("live", "an edit")
    told.add("live", "an edit")
    assert [(notice["title"], notice["id"], notice["times"]) for notice in told.newest()] == [
        *(("an edit", 4, 1), ("an edit", 3, 1)),  # of no topic
        *(("second try", 1, 2), ("another object", 2, 1)),
    ]
