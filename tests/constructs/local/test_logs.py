"""Long logs, and events that appear late: all are read, and each error is told once."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import aws, failures
from cdk_inference.local.emulator import parts
from cdk_inference.local.failures import FailureFeed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_inference.local import LocalCloud

MOST = 20
NOISE = ("START RequestId: 1", "a line of the user's", "END RequestId: 1", "REPORT RequestId: 1")


@dataclass
class Log:
    """The log group of a function."""

    cloud: LocalCloud
    group: str

    def add(self, stream: str, at: int, lines: Sequence[str]) -> None:
        """Add the events of an invocation: all have the time at which it ended."""
        named = {"logGroupName": self.group, "logStreamName": stream}
        logs = self.cloud.client("logs")
        logs.create_log_stream(**named)
        logs.put_log_events(**named, logEvents=[{"timestamp": at, "message": line} for line in lines])

    def fail(self, key: str, at: int) -> None:
        row = {"level": "ERROR", "object_key": f"bucket/{key}", "exception": "ValueError: as it was told"}
        self.add(key, at, [NOISE[0], json.dumps(row), *NOISE[2:]])

    def messages(self, since: int = 0) -> list[str]:
        events = parts.group_events(self.cloud.endpoint, self.group, since=since)
        return [message for _, _, message in events]


@pytest.fixture
def log(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log group of no deployed function, of which the emulator is asked for few events at once."""
    monkeypatch.setattr(parts, "_MOST_EVENTS", MOST)
    made = Log(local_cloud, f"/test/{uuid.uuid4().hex}")
    function = failures._Function("App/Score", made.group, aws.DEFAULT_ENV, "App/Photos")
    monkeypatch.setattr(failures, "_functions", lambda *_: [function])
    assert made.messages() == []
    local_cloud.client("logs").create_log_group(logGroupName=made.group)
    return made


def test_logs_longer_than_an_answer_are_read_to_their_end(log: Log) -> None:
    written = []
    for number, at in enumerate((1, 2, 2, 2, 3, 4, 4, 5)):  # the first answer ends amid a millisecond
        lines = [f"{number} {line}" for line in range(MOST // 3)]
        log.add(f"s{number}", at, lines)
        written += lines
    assert log.messages() == written
    assert log.messages(since=3) == written[4 * (MOST // 3) :]
    log.add("exact", 6, [f"last {line}" for line in range(MOST)])  # as many as one answer has, all at once
    log.add("after", 7, ["after"])
    assert log.messages(since=6)[MOST:] == ["after"]


def test_an_error_after_many_lines_is_told_once(log: Log) -> None:
    feed = FailureFeed(log.cloud, 0)
    for number in range(2 * MOST):
        log.add(f"s{number}", parts.LATE_MS * number, NOISE)
    assert feed.new() == []
    log.fail("bad", parts.LATE_MS * 2 * MOST)
    assert [(each.keys, each.stage) for each in feed.new()] == [(("bad",), "App/Score")]
    assert feed.new() == []
    (read,) = feed._read.values()
    assert len(read.streams) <= 2  # what cannot come again is forgotten


def test_an_error_that_appears_after_a_later_one_is_told_once(log: Log) -> None:
    feed = FailureFeed(log.cloud, 0)
    told = []
    for key, at in (("second", 100_001), ("first", 100_000), ("late", 100_001 - parts.LATE_MS)):
        log.fail(key, at)
        told.append([each.keys for each in feed.new()])
    assert told == [[("second",)], [("first",)], [("late",)]]
    assert feed.new() == []


def test_an_error_is_told_later_if_the_embedded_aws_did_not_say_what_happens_next(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = FailureFeed(log.cloud, 0)
    log.fail("bad", 1)
    with monkeypatch.context() as broken:
        broken.setattr(failures._Tries, "next", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            feed.new()
    assert [(each.keys, each.again) for each in feed.new()] == [(("bad",), False)]
